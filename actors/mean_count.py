"""The mean of a number over time, and whether it has ever changed.

Given each change as it comes; gives the mean since it was last asked for.
"""

from __future__ import annotations

import time


class MeanCount:
    """Of a number that changes now and then, over time."""

    def __init__(self, count: int) -> None:
        self._count, self._is_steady = count, True
        self.has_changed = False
        """Ever."""
        self._count_s, self._since = 0.0, time.perf_counter()
        self._began = self._since

    def note(self, count: int) -> None:
        """It is `count` from now on."""
        self._add()
        if count != self._count:
            self._count, self._is_steady, self.has_changed = count, False, True

    def take(self) -> float:
        """Since the last call."""
        self._add()
        passed_s, is_steady = self._since - self._began, self._is_steady
        mean = float(self._count) if is_steady or not passed_s else self._count_s / passed_s
        self._count_s, self._began, self._is_steady = 0.0, self._since, True
        return mean

    def _add(self) -> None:
        now = time.perf_counter()
        self._count_s += self._count * (now - self._since)
        self._since = now
