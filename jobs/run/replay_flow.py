"""Replay: a learner trains on what another run recorded, in its order and steps, without any engine.

Given the folder of a recorded run; gives the `StepBatch` of each step. With the same model, config and data the learner
does what the recorded one did, bit for bit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from raylign.actors.feeder import FeederCounts
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.run.step_batches import StepBatch, make_batch
from raylign.learners.algorithms.base import Algorithm
from raylign.rollout.experience.replay import ReplayLog
from raylign.rollout.experience.schema import batch_to_groups


class ReplayFlow:
    """An `ExperienceFlow` without engines."""

    def __init__(self, config: TrainConfig, algorithm: Algorithm) -> None:
        assert config.replay is not None
        self._config, self._algorithm = config, algorithm
        self._log = ReplayLog.open(config.replay)

    async def next(self, step: int) -> StepBatch:
        lease = self._log.lease(step)
        groups = [
            replace(group, importance_weight=float(weight))
            for group, weight in zip(batch_to_groups(lease.batch), lease.weights, strict=True)
        ]
        return make_batch(step, groups, self._algorithm, self._config, lease_ids=[])

    def fail(self, error: Exception) -> None:
        raise error

    async def trained(self, batch: StepBatch) -> tuple[FeederCounts, dict[str, Any] | None]:
        return FeederCounts(), None

    async def commit(self) -> None:
        pass

    async def stop(self) -> None:
        pass
