"""A worker's way to the experience log: finished groups go to the rewards, and their answer to the log.

Given groups by `send`, and failures by `report`; gives nothing back but what `poll_failures` tells. It waits for the
first thing to tell (`report`, or a delivery that breaks, unblocks it) and never longer than its deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from raylign.actors.rollout_errors import DeliveryError, DeliveryParty
from raylign.actors.waiting import cause_of, happens, wait_for
from raylign.rollout.sample import Failure, Group

PING_DEADLINE_S = 10.0
GATHER_S = 0.005
"""Neighbours finish in the same engine step: they are waited for so long, to share a call."""


class LogDelivery:
    """Groups on their way; `send` works before `connect`, whose parties then get what has gathered."""

    def __init__(self) -> None:
        self._outbox: list[Group] = []
        self.keeps_order = False
        """What is sent together reaches the log together (deterministic runs)."""
        self._outbox_came = asyncio.Event()
        self._failures: list[tuple[int, Failure]] = []
        self._failures_came = asyncio.Event()
        self._broken: DeliveryError | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def connect(self, reward_server: Any, log: Any, deadline_s: float, scores_apart: bool = False) -> None:
        """Where groups go, and how long it may take to score and log a batch of them. `scores_apart`: a call for each
        group, so that a slow judge holds up its own group alone."""
        self._reward_server, self._log, self._deadline_s = reward_server, log, deadline_s
        self._scores_apart = scores_apart
        self._spawn(self._send_finished())

    def send(self, group: Group) -> None:
        """A finished group."""
        self._outbox.append(group)
        self._outbox_came.set()

    def report(self, ordinal: int, failure: Failure) -> None:
        """A group that will not come."""
        self._failures.append((ordinal, failure))
        self._failures_came.set()

    async def poll_failures(self, deadline_s: float) -> list[tuple[int, Failure]]:
        """(ordinal, what happened) of groups that will not come; empty when all is well within the deadline. Raises
        what broke the way to the log: the reward server's or the log's own words."""
        if not await happens(self._failures_came, deadline_s):
            return []
        if self._broken is not None:
            raise self._broken
        failures, self._failures = self._failures, []
        self._failures_came.clear()
        return failures

    def stop(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()

    async def _send_finished(self) -> None:
        """Forever: what has finished, a batch a call."""
        while True:
            await self._outbox_came.wait()
            await asyncio.sleep(GATHER_S)
            groups, self._outbox = self._outbox, []
            self._outbox_came.clear()
            apart = self._scores_apart and not self.keeps_order
            for batch in [[group] for group in groups] if apart else [groups]:
                self._spawn(self._deliver(batch))

    async def _deliver(self, groups: list[Group]) -> None:
        try:
            async with asyncio.timeout(self._deadline_s):
                scored = self._reward_server.score_for_log.remote(groups)
                await self._log.append.remote(scored)
        except TimeoutError:
            words = f"{len(groups)} groups were not scored and logged within {self._deadline_s:.0f} s"
            await self._mark_broken(f"{words} (rollout.answer_deadline_s)")
        except Exception as error:
            await self._mark_broken(str(cause_of(error)))

    async def _mark_broken(self, words: str) -> None:
        """For whoever polls."""
        self._broken = DeliveryError(await self._failed_party(), words)
        self._failures_came.set()

    async def _failed_party(self) -> DeliveryParty:
        try:
            await wait_for(self._reward_server.ready.remote(), "the reward server", PING_DEADLINE_S)
        except Exception:
            return "reward server"
        return "experience log"

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Tasks nobody holds would be collected while they run."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
