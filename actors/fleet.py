"""The fleet: the one owner of the inference engines, of who among them may get work, and of their replacement.

Given handles of rollout workers, and a way to start another; gives the engines that can be asked and those that may
get work. Whoever finds an engine dead says so by `mark_lost`; only the fleet ends and starts workers.

    STARTING ── its worker is up ──▶ STALE ── a weight update was verified ──▶ CURRENT ── the next update ──▶ STALE …
        any of them ── `mark_lost` ──▶ DEAD, and an engine of the same number is STARTING in its place

Observers (the feeder, the weight publisher) are told of engines that are lost, started and ready, of versions, and of
the end: an engine that dies more than `MAX_REPLACEMENTS` times, or dies where nobody can start another, ends the run.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from raylign.actors.handles import kill
from raylign.actors.placement import release
from raylign.actors.rollout_errors import RolloutError
from raylign.actors.waiting import wait_for

MAX_REPLACEMENTS = 3
"""Of one engine; one that dies more often will die again."""
SETTLED_UPDATES = 3
"""An engine that has served through so many weight updates is well: deaths before it count no more."""


class EngineState(StrEnum):
    """What an engine holds. STALE: an old, unknown or mixed version; CURRENT: the published one, proven by its digest
    or because the run started from it. Only a CURRENT engine gets work."""

    STARTING = "starting"
    STALE = "stale"
    CURRENT = "current"
    DEAD = "dead"


@dataclass(eq=False)
class Engine:
    """One engine from its start to its death; the one in its place is another `Engine` of the same number."""

    number: int
    handle: Any = None
    """Of its rollout worker; the fleet fills it when the worker is up."""
    state: EngineState = EngineState.STARTING
    num_updates: int = 0
    """Versions that were published while it served."""


class FleetObserver:
    """Whoever wants to know; each notice does nothing unless it is overridden."""

    def engine_lost(self, engine: Engine) -> None:
        """It is dead, and its requests with it."""

    async def engine_started(self, engine: Engine) -> None:
        """Its worker is up, STALE. An error means that it is of no use."""

    def engine_ready(self, engine: Engine) -> None:
        """It is CURRENT."""

    def weights_arrived(self, version: int) -> None:
        """Engines sample from `version` from now on."""

    def fleet_failed(self, error: RolloutError) -> None:
        """An engine cannot be replaced: the run is to end."""


class Fleet:
    """Engines by number. Handles are Ray actor handles, or anything with awaitable `verb.remote`."""

    def __init__(
        self,
        handles: Sequence[Any],
        *,
        current: bool = True,
        start: Callable[[int], Awaitable[Any]] | None = None,
        placements: Sequence[Any] = (),
    ) -> None:
        """`current`: engines hold the weights that the run starts from; else (adapters) they serve nothing before they
        are sent some. `start(number)` starts a worker and gives its handle; it holds the weights that the run started
        from. `placements`: Ray's, given back by `stop`."""
        state = EngineState.CURRENT if current else EngineState.STALE
        self._engines = {number: Engine(number, handle, state) for number, handle in enumerate(handles)}
        self._start = start
        self._placements = placements
        self._num_deaths: Counter[int] = Counter()
        self._replacing: set[asyncio.Task[None]] = set()
        self._observers: list[FleetObserver] = []
        self._changed = asyncio.Event()
        self.failure: RolloutError | None = None
        """Set for good once an engine cannot be replaced."""

    # ---- who is there ----------------------------------------------------------------------------------

    @property
    def engines(self) -> list[Engine]:
        """Those that can be asked, by number."""
        return [engine for engine in self._engines.values() if engine.state in (EngineState.STALE, EngineState.CURRENT)]

    @property
    def serving(self) -> list[Engine]:
        """Those that may get work, by number."""
        return [engine for engine in self._engines.values() if engine.state is EngineState.CURRENT]

    @property
    def states(self) -> dict[int, EngineState]:
        """Of all engines, by number."""
        return {number: engine.state for number, engine in self._engines.items()}

    @property
    def can_replace(self) -> bool:
        """Whether another engine can be started in the place of one that is lost."""
        return self._start is not None

    async def until_serving(self, deadline_s: float, setting: str) -> list[Engine]:
        """Those that may get work, as soon as there is one."""
        return await wait_for(
            self._serving_again(),
            "an engine that holds the published weights",
            deadline_s,
            setting=setting,
            error=RolloutError,
            state=lambda: ", ".join(f"engine {number} is {state}" for number, state in self.states.items()),
        )

    async def _serving_again(self) -> list[Engine]:
        while not self.serving:
            self.raise_if_failed()
            self._changed.clear()
            await self._changed.wait()
        return self.serving

    def raise_if_failed(self) -> None:
        """For whoever is about to ask engines."""
        if self.failure is not None:
            raise self.failure

    # ---- what is known of them -------------------------------------------------------------------------

    def observe(self, observer: FleetObserver) -> None:
        """Tell it from now on."""
        self._observers.append(observer)

    def unobserve(self, observer: FleetObserver) -> None:
        """Tell it nothing more."""
        if observer in self._observers:
            self._observers.remove(observer)

    def mark_stale(self, engine: Engine) -> None:
        """Its weights are being replaced: it gets no work."""
        if engine.state is EngineState.CURRENT:
            engine.state = EngineState.STALE

    def mark_current(self, engine: Engine) -> None:
        """It holds the published version: it gets work again."""
        if engine.state is EngineState.STALE:
            engine.state = EngineState.CURRENT
            self._changed.set()
            for observer in [*self._observers]:
                observer.engine_ready(engine)

    def weights_published(self, version: int) -> None:
        """All engines that serve sample from `version` now."""
        for engine in self.serving:
            engine.num_updates += 1
            if engine.num_updates == SETTLED_UPDATES:
                self._num_deaths[engine.number] = 0
        for observer in [*self._observers]:
            observer.weights_arrived(version)

    # ---- replacement -----------------------------------------------------------------------------------

    def mark_lost(self, engine: Engine, last_words: str) -> None:
        """It is dead or of no use; whoever says so second is not heard. Another is started in its place, and observers
        are told when its worker is up."""
        if engine.state is EngineState.DEAD:
            return
        engine.state = EngineState.DEAD
        if engine.handle is not None:
            kill(engine.handle)
        self._num_deaths[engine.number] += 1
        for observer in [*self._observers]:
            observer.engine_lost(engine)
        if self._start is None:
            self._fail(RolloutError(last_words))
        elif self._num_deaths[engine.number] > MAX_REPLACEMENTS:
            self._fail(RolloutError(f"{last_words}; it was replaced {MAX_REPLACEMENTS} times already"))
        else:
            print(f"{last_words}; starting another", flush=True)
            self._engines[engine.number] = another = Engine(engine.number)
            task = asyncio.create_task(self._bring_up(another, self._start))
            self._replacing.add(task)
            task.add_done_callback(self._replacing.discard)

    async def _bring_up(self, engine: Engine, start: Callable[[int], Awaitable[Any]]) -> None:
        try:
            engine.handle = await start(engine.number)
            engine.state = EngineState.STALE
            for observer in [*self._observers]:
                await observer.engine_started(engine)
        except Exception as error:  # counts as a death of its own, so that it ends
            self.mark_lost(engine, f"rollout worker {engine.number} did not start: {type(error).__name__}: {error}")

    async def replacements(self) -> None:
        """Returns once no engine is STARTING; look at `engines` for what came of it."""
        while self._replacing:
            await asyncio.wait(self._replacing)

    def _fail(self, error: RolloutError) -> None:
        self.failure = self.failure or error
        self._changed.set()
        for observer in [*self._observers]:
            observer.fleet_failed(error)

    # ---- all of them -----------------------------------------------------------------------------------

    async def call_all(self, verb: str, deadline_s: float, setting: str) -> None:
        """A verb without arguments on every engine."""
        calls = [getattr(engine.handle, verb).remote() for engine in self.engines]
        await wait_for(asyncio.gather(*calls), f"engines to {verb}", deadline_s, setting=setting, error=RolloutError)

    async def stop(self, deadline_s: float) -> None:
        """End all engines, in order or, after the deadline, by force; also those that are just starting."""
        replacing = [*self._replacing]
        for task in replacing:
            task.cancel()
        await asyncio.gather(*replacing, return_exceptions=True)
        engines = self.engines
        stops = asyncio.gather(*(engine.handle.stop.remote() for engine in engines), return_exceptions=True)
        await asyncio.wait({stops}, timeout=deadline_s)
        for engine in engines:
            engine.state = EngineState.DEAD
            kill(engine.handle)
        release(self._placements)
