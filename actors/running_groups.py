"""The groups that are being generated: which engine has which, since when, and how long each engine was busy.

Given groups as they are issued and as they end; gives what runs where, and seconds with work for each engine.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from raylign.actors.fleet import Engine
from raylign.rollout.sample import Prompt


@dataclass(frozen=True)
class Running:
    """A group being generated."""

    prompt: Prompt
    engine: Engine
    since_version: int
    """Published version when it was handed to the engine: its tokens are of this version or later."""


class RunningGroups:
    """By ordinal."""

    def __init__(self) -> None:
        self.by_ordinal: dict[int, Running] = {}
        self._by_engine: dict[Engine, set[int]] = {}
        self._busy_since: dict[int, float] = {}
        self._busy_s: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self.by_ordinal)

    def add(self, ordinal: int, running: Running) -> None:
        """It is issued."""
        self.by_ordinal[ordinal] = running
        self._by_engine.setdefault(running.engine, set()).add(ordinal)
        self._busy_since.setdefault(running.engine.number, time.perf_counter())

    def remove(self, ordinal: int) -> Running | None:
        """It runs no more; None where it did not."""
        running = self.by_ordinal.pop(ordinal, None)
        if running is None:
            return None
        others = self._by_engine[running.engine]
        others.remove(ordinal)
        if not others:
            del self._by_engine[running.engine]
            number = running.engine.number
            self._add_busy(number, self._busy_since.pop(number), time.perf_counter())
        return running

    def on(self, engine: Engine) -> list[int]:
        """Ordinals of the groups that an engine has, in order."""
        return sorted(self._by_engine.get(engine, ()))

    def older_than(self, version: int) -> dict[Engine, list[int]]:
        """Groups that were issued before a version was published, by engine."""
        older: dict[Engine, list[int]] = {}
        for ordinal, running in self.by_ordinal.items():
            if running.since_version < version:
                older.setdefault(running.engine, []).append(ordinal)
        return older

    def least_loaded(self, engines: list[Engine]) -> Engine:
        """The one with the fewest groups; of equals the first."""
        return min(engines, key=lambda engine: len(self._by_engine.get(engine, ())))

    def take_busy_s(self) -> dict[int, float]:
        """By engine's number: time with at least one group since the last call."""
        now = time.perf_counter()
        for number, since in self._busy_since.items():
            self._add_busy(number, since, now)
            self._busy_since[number] = now
        busy_s, self._busy_s = self._busy_s, {}
        return busy_s

    def _add_busy(self, number: int, since: float, until: float) -> None:
        self._busy_s[number] = self._busy_s.get(number, 0.0) + until - since
