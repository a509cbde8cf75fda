"""What a finished or interrupted run trained: every step once, every prompt once, none left out.

Given the run's folder; fails where a step or a prompt is missing, or is there twice.
"""

from __future__ import annotations

from pathlib import Path

from raylign.jobs.run.folder import read_metrics
from raylign.rollout.experience.replay import ReplayLog


def check_trained_once(folder: Path, num_steps: int, max_staleness: int = 2) -> None:
    """Steps in order, tokens within the bound, and prompts by number: what is not trained yet was finished later than
    others, and waits in the log."""
    lines = read_metrics(folder)
    assert [line["step"] for line in lines] == list(range(1, num_steps + 1))
    assert max(line["staleness/max"] for line in lines) <= max_staleness
    log = ReplayLog.open(folder)
    by_step = [log.lease(step).batch.column("ordinal").to_pylist() for step in range(num_steps)]
    trained = [ordinal for step in by_step for ordinal in step]
    assert len(set(trained)) == len(trained), "a prompt was trained twice"
    ahead = set(range(max(trained))) - set(trained)
    assert len(ahead) <= (max_staleness + 1) * len(by_step[0]), "prompts are lost"
