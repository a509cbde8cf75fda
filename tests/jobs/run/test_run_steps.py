"""The steps of a run, without Ray: what happens when one begins."""

from __future__ import annotations

from typing import Any

from raylign.jobs.config.loading import load_config
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.run.parts import RunParts
from raylign.jobs.run.run import Run
from raylign.jobs.run.stop_request import StopRequest


class Flow:
    """Notes which step is done when the next one begins."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.begun: list[int] = []

    def begin_step(self) -> None:
        self.begun.append(self._run.step)

    def fail(self, error: Exception) -> None:
        raise error


def test_the_flow_learns_that_a_step_begins_after_what_followed_the_one_before() -> None:
    """A deterministic evaluation has the engines until then."""
    config = load_config(TrainConfig, [], {"rewards": [{"name": "exact"}], "num_steps": 3})
    unused: Any = None
    parts = RunParts(config)
    parts.publisher = unused
    run = Run(config, unused, parts, unused, unused, unused, unused, StopRequest(print))
    flow: Any = Flow(run)
    run.flow_through(flow)
    begun_at: list[list[int]] = []
    for step in run.steps():
        begun_at.append([*flow.begun])
        run.step = step + 1
    assert begun_at == [[0], [0, 1], [0, 1, 2]]
