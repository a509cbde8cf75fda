"""Waiting for others on behalf of the learner: it ends when there is no learner any more.

Given a learner group and what is waited for; gives its result, or raises the group's end. Who waits for groups of the
log need not call this: the flow of experience fails with the learner (`jobs/run/experience_flow.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Mortal(Protocol):
    """A `LearnerGroup`."""

    async def lost(self) -> Exception:
        """Returns when it has ended by itself."""


async def while_it_lives(learner: Mortal, others: Awaitable[T]) -> T:
    """`await others`, or the learner's end as soon as it ends by itself."""
    waiting, lost = asyncio.ensure_future(others), asyncio.create_task(learner.lost())
    try:
        await asyncio.wait({waiting, lost}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise lost.result()
        return waiting.result()
    finally:
        for task in (waiting, lost):
            task.cancel()  # no effect where it is done
        await asyncio.gather(waiting, lost, return_exceptions=True)
