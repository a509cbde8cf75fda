"""The learner's end of a weight update, whichever way weights travel.

Given the learner group; gives one version of its weights set aside for engines to fetch (shared memory), or sent to
them by the learner itself (nccl, ipc).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from raylign.actors.fleet import Engine
from raylign.actors.weights.calls import answer_of
from raylign.actors.weights.config import WeightsConfig
from raylign.actors.weights.update import ExportedWeights, Phase


class LearnerEnd:
    """The learner has the awaitable verbs `export_weights(version)` (a list of bucket descriptions) and
    `release_weights()`; for nccl and ipc `connect_weights(transport, handles)` and `send_weights(version)`, run on all
    its ranks."""

    def __init__(self, learner: Any, config: WeightsConfig) -> None:
        self._learner, self._config = learner, config
        self._connected: list[Engine] = []

    @property
    def sets_aside(self) -> bool:
        """Whether exported weights stay what they are while the learner trains on."""
        return self._config.transport in ("auto", "shared_memory")

    async def export(self, version: int) -> ExportedWeights:
        """Nothing is set aside for nccl and ipc: there is nothing to describe."""
        started_at = time.perf_counter()
        buckets = []
        if self.sets_aside:
            deadline_s = self._config.deadline_s
            buckets = await answer_of(
                "learner", self._learner.export_weights(version), Phase.EXPORT, version, deadline_s
            )
        return ExportedWeights(version, tuple(buckets), time.perf_counter() - started_at)

    async def send(self, version: int, engines: Sequence[Engine]) -> None:
        """nccl and ipc: drive start, update and finish on all engines."""
        deadline_s = self._config.deadline_s
        try:
            if self._connected != list(engines):
                connecting = self._learner.connect_weights(
                    self._config.transport, [engine.handle for engine in engines]
                )
                await answer_of("learner", connecting, Phase.TRANSFER, version, deadline_s)
                self._connected = list(engines)
            sending = self._learner.send_weights(version)
            await answer_of("learner", sending, Phase.TRANSFER, version, deadline_s)
        except Exception:
            self._connected = []
            raise

    async def release(self) -> None:
        """Give back the memory that the last export holds."""
        if self.sets_aside:
            await self._learner.release_weights()
