"""A fleet whose number of engines changes while it works: engines join and leave, and the others never wait for them.

Given a number; brings the fleet there.

    join    STARTING ──▶ STALE ──▶ CURRENT, as one that replaces another; one that fails before is given up
    leave   no more work ──▶ nobody uses it (its last group is in the log, no weight update is under way) ──▶ it ends

Who waits for whom: `settled` for the start and the weights of those that join, and for the last groups of those that
leave; whoever has stopped using an engine says so by `let_go`.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from raylign.actors.fleet import Engine, EngineState, Fleet
from raylign.actors.handles import kill

STOP_DEADLINE_S = 15.0
"""Of an engine that leaves; then its process is ended."""


class ElasticFleet(Fleet):
    """Between `resize` and `settled` it has more or fewer engines than it will have."""

    def __init__(
        self,
        handles: Sequence[Any],
        *,
        current: bool = True,
        start: Callable[[int], Awaitable[Any]] | None = None,
        give_back: Callable[[int], None] = lambda number: None,
    ) -> None:
        super().__init__(handles, current=current, start=start, give_back=give_back)
        self._ending: set[asyncio.Task[None]] = set()
        self._failed: list[str] = []

    def resize(self, num_engines: int) -> None:
        """From now on. Of those that are there the latest leave; one that was about to leave stays before another
        joins; numbers are used again."""
        if num_engines < 1:
            raise ValueError(f"{num_engines} engines: a run that generates needs at least 1")
        self.raise_if_failed()
        staying = [engine for engine in self.members if not engine.is_leaving]
        leaving = [engine for engine in self.members if engine.is_leaving]
        latest = sorted(staying, key=lambda engine: (not engine.is_joining, -engine.number))
        for engine in latest[: max(0, len(staying) - num_engines)]:
            self._leave(engine)
        num_missing = max(0, num_engines - len(staying))
        for engine in leaving[:num_missing]:
            engine.is_leaving = False
            if engine.state is EngineState.CURRENT:
                self._serves(engine)
        for _ in range(num_missing - len(leaving)):
            assert self._start is not None, "whoever asks for more can start some"
            number = next(number for number in itertools.count() if number not in self._engines)
            self._num_deaths[number] = 0
            self._begin(Engine(number, is_joining=True), self._start)

    async def settled(self) -> list[str]:
        """Returns once those that join serve and those that leave have ended; gives why some could not join."""
        await self.until(lambda: not self.is_changing)
        failed, self._failed = self._failed, []
        return failed

    @property
    def is_changing(self) -> bool:
        """Some are joining, leaving or ending."""
        return bool(self._ending) or any(engine.is_joining or engine.is_leaving for engine in self.members)

    def mark_current(self, engine: Engine) -> None:
        joins = engine.is_joining
        super().mark_current(engine)
        if joins and not engine.is_joining:
            after_s = time.monotonic() - engine.up_at
            print(f"rollout worker {engine.number} has joined: it serves {after_s:.1f} s after it was up", flush=True)

    def let_go(self) -> None:
        """End those that leave and that nobody uses any more."""
        for engine in [each for each in self.engines if each.is_leaving]:
            if not self.is_used(engine):
                engine.state = EngineState.DEAD
                task = asyncio.create_task(self._end(engine))
                self._ending.add(task)
                task.add_done_callback(self._ended)

    async def stop(self, deadline_s: float) -> None:
        await asyncio.gather(*self._ending, return_exceptions=True)
        await super().stop(deadline_s)

    def _leave(self, engine: Engine) -> None:
        engine.is_leaving = True
        if (starting := self._starting.get(engine)) is not None:
            starting.cancel()  # nobody has used it
            engine.state = EngineState.DEAD
            if engine.handle is not None:
                kill(engine.handle)
            self._forget(engine, "")
        self.let_go()

    async def _end(self, engine: Engine) -> None:
        stop = asyncio.gather(engine.handle.stop.remote(), return_exceptions=True)
        await asyncio.wait({stop}, timeout=STOP_DEADLINE_S)
        kill(engine.handle)
        self._forget(engine, "")

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._ending.discard(task)
        self._changed.set()

    def _forget(self, engine: Engine, last_words: str) -> None:
        super()._forget(engine, last_words)
        self._failed += [last_words] if last_words and engine.is_joining else []
        self._note_count()

    def _serves(self, engine: Engine) -> None:
        super()._serves(engine)
        self._note_count()

    def _note_count(self) -> None:
        self.mean_count.note(sum(not engine.is_joining for engine in self.members))
