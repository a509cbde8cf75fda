"""One engine of the simulator: sequences that decode side by side, and others that wait for a place.

Given sequences and the time; gives the time of the next end, and which versions every token was sampled from.

All running sequences gain one token in a decode step, so one counter of decode steps serves all: a sequence of L tokens
that starts at count K ends at K + L, and only the ends, never the steps, are events.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

ROUNDING = 1e-6
"""Of a decode step: a count is a sum of floats."""


@dataclass
class SimulatedGroup:
    """Completions of one prompt."""

    lengths: list[int]
    engine: int
    num_left: int = field(init=False)
    tokens_by_version: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.num_left = len(self.lengths)


class SimulatedEngine:
    """Alive from the start; `stamp` tells the events of before a change from those after it."""

    def __init__(self, number: int, max_num_seqs: int, step_s: list[float]) -> None:
        self.number = number
        self.stamp = 0
        self.num_failures = 0
        self.groups: dict[int, SimulatedGroup] = {}
        """By ordinal, running or waiting."""
        self.is_alive, self.is_paused, self.is_draining = True, False, False
        self.is_leaving = self.is_gone = False
        """It gets no more groups; it had none left, and has ended."""
        self.num_tokens = 0.0
        """Generated, of all time."""
        self.busy_s = 0.0
        """Time in which it decoded."""
        self._max_num_seqs, self._step_s = max_num_seqs, step_s
        self._count, self._time = 0.0, 0.0
        self._running: list[tuple[float, int, int, int]] = []
        """Heap of (count at its end, order, ordinal, length)."""
        self._waiting: deque[tuple[int, int]] = deque()
        """(ordinal, length)"""
        self._num_started = 0
        self._switch_counts: list[float] = [0.0]
        self._versions: list[int] = [0]

    @property
    def num_running(self) -> int:
        return len(self._running)

    def advance(self, now: float) -> None:
        """Decode until `now`."""
        if self._running and self.is_alive and not self.is_paused:
            passed_s = now - self._time
            steps = passed_s / self._step_s[len(self._running)]
            self._count += steps
            self.busy_s += passed_s
            self.num_tokens += steps * len(self._running)
        self._time = now

    def add(self, ordinal: int, group: SimulatedGroup) -> None:
        """Take a group; `advance` first."""
        self.groups[ordinal] = group
        self._waiting.extend((ordinal, length) for length in group.lengths)
        self._fill()

    def next_end_s(self) -> float | None:
        """When the next sequence ends if nothing changes."""
        if not self._running or self.is_paused or not self.is_alive:
            return None
        steps = max(0.0, self._running[0][0] - self._count)
        return self._time + steps * self._step_s[len(self._running)]

    def take_ended(self) -> Iterator[tuple[int, SimulatedGroup]]:
        """Groups whose last sequence has ended; called at the time that `next_end_s` gave, after `advance`."""
        self._count = max(self._count, self._running[0][0])
        while self._running and self._running[0][0] <= self._count + ROUNDING:
            end, _, ordinal, length = heapq.heappop(self._running)
            group = self.groups[ordinal]
            by_version = group.tokens_by_version
            for version, tokens in self._spans(end, length):
                by_version[version] = by_version.get(version, 0) + tokens
            group.num_left -= 1
            if group.num_left == 0:
                yield ordinal, self.groups.pop(ordinal)
        self._fill()

    def take_weights(self, version: int) -> int:
        """Sample from `version` once resumed; gives the tokens that running sequences hold."""
        self._switch_counts.append(self._count)
        self._versions.append(version)
        return int(sum(length - (end - self._count) for end, _, _, length in self._running))

    def resume(self) -> None:
        """Go on after an update; `advance` first."""
        self.is_paused = self.is_draining = False
        self._fill()

    def fail(self) -> tuple[list[int], float]:
        """All groups are lost; gives their ordinals and the tokens of them that were generated."""
        lost = sum(length - (end - self._count) for end, _, _, length in self._running)
        lost += sum(sum(group.tokens_by_version.values()) for group in self.groups.values())
        ordinals = list(self.groups)
        self.groups.clear()
        self._running.clear()
        self._waiting.clear()
        self.is_alive = False
        self.num_failures += 1
        return ordinals, lost

    def restart(self, version: int, is_paused: bool, is_draining: bool) -> None:
        """Back with the weights of `version`, in the midst of an update if there is one."""
        self.is_alive, self.is_paused, self.is_draining = True, is_paused, is_draining
        self._switch_counts.append(self._count)
        self._versions.append(version)

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self._max_num_seqs and not self.is_draining:
            ordinal, length = self._waiting.popleft()
            self._num_started += 1
            heapq.heappush(self._running, (self._count + length, self._num_started, ordinal, length))

    def _spans(self, end: float, length: int) -> list[tuple[int, int]]:
        """(version, tokens) of a sequence. A token of which the decode step was cut by an update is of the new one."""
        start = end - length
        if self._switch_counts[-1] <= start + ROUNDING:  # most sequences see no update
            return [(self._versions[-1], length)]
        spans: list[tuple[int, int]] = []
        place = bisect_right(self._switch_counts, start + ROUNDING) - 1
        done = 0
        for later in range(place + 1, len(self._switch_counts)):
            if self._switch_counts[later] >= end - ROUNDING:
                break
            until = int(self._switch_counts[later] - start + ROUNDING)
            if until > done:
                spans.append((self._versions[later - 1], until - done))
                done = until
        else:
            later = len(self._switch_counts)
        spans.append((self._versions[later - 1], length - done))
        return spans
