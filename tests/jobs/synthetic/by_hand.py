"""A synthesis in one process: the scripted teacher over HTTP, and a base model that is a function; as a program, a job
to be killed.

Given a folder, the teacher's address and a number of demonstrations; runs all stages and prints the selected ids.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from raylign.jobs.synthetic.base_answers import BaseReport, Judged
from raylign.jobs.synthetic.config import SynthesizeConfig
from raylign.jobs.synthetic.given import Given
from raylign.jobs.synthetic.prompts import Demo
from raylign.jobs.synthetic.rows import Row
from raylign.jobs.synthetic.synthesize import make_data
from raylign.rewards.tasks.opening import open_task
from raylign.rollout.sampling import AnswerSamplingConfig
from tests.jobs.synthetic_teacher import value_of

NUM_ROWS = 12
AT_ONCE = 3
SUMS = {"form": "numeric", "output_instruction": "="}


def config_of(folder: Path, address: str, **changes: Any) -> SynthesizeConfig:
    """Of a small job."""
    rows = {"num_rows": NUM_ROWS, "num_kept": 6, "num_votes": 4}
    endpoint = {"url": address, "api_key_env": None, "requests_per_minute": None}
    teacher: dict[str, Any] = {
        "model": "m",
        "endpoints": [endpoint],
        "cache": None,
        "max_concurrent": AT_ONCE,
        "max_tokens": 100,
    }
    teacher |= {"num_attempts": 2, "longest_pause_s": 0.05}
    values: dict[str, Any] = {
        "folder": str(folder),
        "task": SUMS,
        "task_instruction": ["Add", "numbers."],
        "template": "{prompt}",
        "rows": rows | changes.pop("rows", {}),
        "scoring": {"num_answers": 8, "max_tokens": 8},
        "engine": {"max_model_len": 64},
        "teacher": teacher | changes.pop("teacher", {}),
        "deterministic": True,
    }
    return SynthesizeConfig.model_validate(values | changes)


class FunctionModel:
    """Right with a chance that falls with the number of terms; by row and stage, so a resume sees the same."""

    policy = "function@1"

    def __init__(self, is_right: Callable[[str, Row, Random], bool] | None = None) -> None:
        self._is_right = is_right or (lambda stage, row, random: random.random() < 1.6 / len(row.input.split()))
        self.asked: list[tuple[str, str]] = []
        """Stage and row."""

    async def answers(self, stage: str, rows: Sequence[Row], sampling: AnswerSamplingConfig) -> BaseReport:
        found = BaseReport()
        for row in rows:
            self.asked.append((stage, row.row_id))
            random = Random(f"{stage}/{row.row_id}")
            verdicts = tuple(self._is_right(stage, row, random) for _ in range(sampling.num_completions))
            texts = tuple(str(value_of(row.input) + (not verdict)) for verdict in verdicts)
            found.by_row[row.row_id] = Judged(verdicts, texts)
        return found


def demos(count: int) -> tuple[Demo, ...]:
    return tuple(Demo(f"{number} + {number}", str(2 * number)) for number in range(1, count + 1))


def make(config: SynthesizeConfig, given: Given | None = None, model: FunctionModel | None = None) -> dict[str, Any]:
    """All stages."""
    task = open_task(config.task)
    return asyncio.run(make_data(config, given or Given(), task, model or FunctionModel()))


def main() -> None:
    folder, address, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    summary = make(config_of(folder, address), Given(demos(count)))
    print(json.dumps(summary["selected_ids"]))


if __name__ == "__main__":
    main()
