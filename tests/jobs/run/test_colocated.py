"""One GPU for engine and learner: who holds its memory when. The order of calls needs no GPU."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from raylign.actors.weights.update import ExportedWeights
from raylign.jobs.config.loading import load_config
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.run.held_out import HeldOut
from raylign.jobs.run.parts import RunParts
from raylign.jobs.run.roles import shares_gpu
from raylign.jobs.run.run import Run
from raylign.jobs.run.stop_request import StopRequest
from raylign.learners.algorithms.facts import RunRows


class NotedDown:
    """Any awaitable verb, noted down."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self._name, self._calls = name, calls

    def __getattr__(self, verb: str) -> Any:
        async def called(*arguments: Any) -> Any:
            self._calls.append(f"{self._name} {verb}")
            return ExportedWeights(1, (), 0.0) if verb == "export" else {}

        return called


class Recorded:
    """What has been recorded: nothing yet."""

    evaluated_step = -1

    def evaluated(self, *line: Any) -> None:
        """Told of an evaluation."""


def run_noted_down(calls: list[str]) -> Run:
    """A run without Ray: its parts and its flow only say what they are asked."""
    config = load_config(TrainConfig, [], {"rewards": [{"name": "exact"}]})
    parts = RunParts(config)
    parts.learner, parts.rollouts, parts.publisher = (  # type: ignore[assignment]
        NotedDown(name, calls) for name in ("learner", "engines", "publisher")
    )
    parts.takes_turns = True
    unused: Any = None
    run = Run(config, unused, parts, unused, unused, unused, unused, StopRequest(print))
    flow: Any = NotedDown("log", calls)
    run.flow_through(flow)
    return run


def test_the_gpu_changes_hands_around_every_step() -> None:
    calls: list[str] = []

    async def step() -> None:
        run = run_noted_down(calls)
        await run.update([], version=0)
        await run.publish_weights(version=1)

    asyncio.run(step())
    assert calls == [
        "engines sleep",  # the last group is in: nothing runs on the engine any more
        "learner reload",
        "publisher before_learning",
        "learner update",
        "publisher export",
        "learner offload",
        "engines wake",
        "publisher deliver",
    ]


def test_the_engine_starts_alone_and_the_learner_while_it_sleeps() -> None:
    calls: list[str] = []

    async def start() -> None:
        parts = run_noted_down(calls).parts
        starts: Any = NotedDown("start of the", calls)
        await parts._start_roles(starts.learner, starts.engines)

    asyncio.run(start())
    assert calls == [
        "start of the engines",
        "engines sleep",
        "start of the learner",
        "publisher set_aside",
        "learner offload",
        "engines wake",
        "publisher catch_up",
    ]


def test_an_engine_that_only_evaluates_starts_before_the_learner_and_stays_awake() -> None:
    calls: list[str] = []

    async def start() -> None:
        parts = run_noted_down(calls).parts
        parts.takes_turns, parts.shares_gpu, parts.num_engines = False, True, 1
        starts: Any = NotedDown("start of the", calls)
        await parts._start_roles(starts.learner, starts.engines)

    asyncio.run(start())
    assert calls == ["start of the engines", "start of the learner"]


def test_the_learner_has_its_gpu_when_it_evaluates_between_its_turns() -> None:
    calls: list[str] = []

    async def evaluate() -> None:
        run = run_noted_down(calls)
        pairs: Any = NotedDown("pairs of the learner", calls)
        run.curriculum, run.recorder, run._held_out = pairs, Recorded(), HeldOut(run.config, None)  # type: ignore[assignment]
        await run.evaluate()

    asyncio.run(evaluate())
    assert calls == ["learner reload", "pairs of the learner evaluate", "learner offload"]


def test_a_learner_that_takes_turns_runs_at_a_stage_that_can_leave_the_gpu(tmp_path: Path) -> None:
    config = load_config(TrainConfig, [], {"rewards": [{"name": "exact"}]})
    assert config.learner.zero_stage == 0
    parts = RunParts(config)
    stages = {}
    for asked in (0, 1, 2, 3):
        config.learner.zero_stage = asked
        for parts.takes_turns in (False, True):
            spec = parts._learner_spec(10, tmp_path, None, RunRows(0, "", 1, 10), [])
            stages[asked, parts.takes_turns] = spec.config.zero_stage
    assert stages == {(asked, turns): 2 if turns else asked for asked in (0, 1, 2, 3) for turns in (False, True)}


def test_it_is_chosen_where_one_gpu_has_two_roles() -> None:
    assert shares_gpu(num_gpus=1, num_ranks=1, num_engines=1, gpus_per_engine=1)
    assert not shares_gpu(num_gpus=2, num_ranks=1, num_engines=1, gpus_per_engine=1)
