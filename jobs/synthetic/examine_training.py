"""Checks of the training half of synthetic-rl before the first call of the teacher: memory, context, engines, rewards.

Given a config and what the user gives; gives what `plan` finds for the training run. The rows are not written yet, so
the given ones stand in for them; where none are given, rewards are not tried.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import closing
from pathlib import Path

from raylign.jobs.checks.findings import Findings
from raylign.jobs.checks.machine import Machine
from raylign.jobs.checks.plan import examine_training
from raylign.jobs.synthetic.given import Given
from raylign.jobs.synthetic.rl_config import SyntheticRLConfig
from raylign.rewards.tasks.opening import open_task

MOST_ROWS = 100


def examine_training_half(config: SyntheticRLConfig, given: Given, machine: Machine) -> Findings:
    """Problems that would show only after the data was paid for."""
    with closing(open_task(config.any_task)) as task:
        known = [*given.test, *given.demos]
        labels = task.read_labels([row.output for row in known]) if known else []
        usable = [row for row, label in zip(known, labels, strict=True) if label is not None][:MOST_ROWS]
        lines = [{"prompt": task.prompt(row.input), "output": row.output} for row in usable]
        lines = lines or [{"prompt": task.prompt("?"), "output": "?"}]
    training = config.training(num_test=0)
    with tempfile.TemporaryDirectory(prefix="raylign-rows-") as folder:
        file = Path(folder) / "rows.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        changes = {"data": training.data.model_copy(update={"source": str(file)})}
        return examine_training(training.model_copy(update=changes if usable else {**changes, "rewards": []}), machine)
