"""Replay: a learner trains on what another run recorded, in its order and steps, without any engine.

Given the folder of a recorded run; gives the `StepBatch` of each step. With the same model, config and data the learner
does what the recorded one did, bit for bit.
"""

from __future__ import annotations

from typing import Any

from raylign.actors.feeder import FeederCounts
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.curricula.base import Curriculum
from raylign.jobs.run.step_batches import StepBatch, make_batch, with_importance
from raylign.rollout.experience.replay import ReplayLog


class ReplayBatches:
    """The recorded steps."""

    def __init__(self, config: TrainConfig, curriculum: Curriculum) -> None:
        assert config.replay is not None
        self._config, self._curriculum = config, curriculum
        self._log = ReplayLog.open(config.replay)

    async def next(self, step: int) -> StepBatch:
        lease = self._log.lease(step)
        groups = with_importance(lease.rows.groups(), lease.weights)
        return make_batch(step, groups, self._curriculum, self._config, lease_ids=[])


class ReplayFlow:
    """An `ExperienceFlow` without engines."""

    def __init__(self, config: TrainConfig, curriculum: Curriculum) -> None:
        self.batches = ReplayBatches(config, curriculum)

    def begin_step(self) -> None:
        pass

    def fail(self, error: Exception) -> None:
        raise error

    async def trained(self, batch: StepBatch) -> tuple[FeederCounts | None, dict[str, Any] | None]:
        return None, None

    async def commit(self) -> None:
        pass

    async def stop(self) -> None:
        pass
