"""One GPU for engine and learner: who holds its memory when. The order of calls needs no GPU."""

from __future__ import annotations

import asyncio
from typing import Any

from raylign.jobs.config.loading import load_config
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.run.parts import RunParts
from raylign.jobs.run.roles import shares_gpu
from raylign.jobs.run.run import Run
from raylign.learners.algorithms.policy_gradient.grpo import GrpoConfig
from raylign.learners.algorithms.registry import build_algorithm


class Recorder:
    """Any awaitable verb, noted down."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self._name, self._calls = name, calls

    def __getattr__(self, verb: str) -> Any:
        async def called(*arguments: Any) -> dict[str, float]:
            self._calls.append(f"{self._name} {verb}")
            return {}

        return called


def run_with_recorders(calls: list[str]) -> Run:
    run = Run.__new__(Run)
    run.config = load_config(TrainConfig, [], {"rewards": [{"name": "exact"}]})
    run.deterministic = False
    run.algorithm = build_algorithm(GrpoConfig())
    parts = run.parts = RunParts(run.config, run.algorithm)
    parts.learner, parts.rollouts, parts.publisher, run._flow = (  # type: ignore[assignment]
        Recorder(name, calls) for name in ("learner", "engines", "publisher", "log")
    )
    parts.takes_turns = True
    run._delivery, run._weight_metrics, run._times_s = None, {}, {}
    return run


def test_the_gpu_changes_hands_around_every_step() -> None:
    calls: list[str] = []

    async def step() -> None:
        run = run_with_recorders(calls)
        await run.next_batch(0)
        await run.update([], version=0)
        await run.publish_weights(version=1)

    asyncio.run(step())
    assert calls == [
        "log next",  # the last group is in: nothing runs on the engine any more
        "engines sleep",
        "learner reload",
        "publisher before_learning",
        "learner update",
        "publisher export",
        "learner offload",
        "engines wake",
        "publisher deliver",
    ]


def test_it_is_chosen_where_one_gpu_has_two_roles() -> None:
    assert shares_gpu(num_gpus=1, num_ranks=1, num_engines=1, gpus_per_engine=1)
    assert not shares_gpu(num_gpus=2, num_ranks=1, num_engines=1, gpus_per_engine=1)
