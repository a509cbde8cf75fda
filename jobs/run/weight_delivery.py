"""The learner's weights on their way to the engines, beside the next step.

Given the publisher; `send` exports a version, after which the learner may train on, and delivers it in the background:
`arrived` waits for that. Who waits for whom: the next `export`, an evaluation and the end of the run wait for the
delivery before; it waits for the engines, with the publisher's deadlines. One that fails raises at whoever waits next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raylign.actors.weights.publisher import WeightPublisher
    from raylign.actors.weights.update import ExportedWeights


class WeightDelivery:
    """At most one version under way."""

    def __init__(self, publisher: WeightPublisher, on_failure: Callable[[Exception], None]) -> None:
        self._publisher, self._on_failure = publisher, on_failure
        self._under_way: asyncio.Task[None] | None = None
        self.metrics: dict[str, float] = {}
        """Of the last version that arrived."""

    async def export(self, version: int) -> ExportedWeights:
        """Set the learner's weights aside, once the version before has arrived."""
        await self.arrived()
        return await self._publisher.export(version)

    def send(self, exported: ExportedWeights) -> None:
        """Bring them to the engines, in the background."""
        self._under_way = asyncio.create_task(self._deliver(exported))

    async def arrived(self) -> None:
        """The version under way has arrived."""
        if self._under_way is not None:
            under_way, self._under_way = self._under_way, None
            await under_way

    def cancel(self) -> None:
        """Give it up."""
        if self._under_way is not None:
            self._under_way.cancel()

    async def _deliver(self, exported: ExportedWeights) -> None:
        try:
            self.metrics = await self._publisher.deliver(exported)
        except Exception as error:
            self._on_failure(error)  # the loop may be waiting for groups that no engine can give any more
            raise
