"""Preference pairs of several data sources in one order, each with its share.

Given opened sources and shares; gives pairs and prompts by ordinal, as one source does. Which source's turn it is
depends on the ordinal and the shares alone, and which row of it on the seed: a run resumes anywhere.
"""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections.abc import Sequence
from dataclasses import replace

from raylign.rollout.data.prompts import PromptSource
from raylign.rollout.data.shares import parts_of
from raylign.rollout.sample import PreferencePair, Prompt


class SourceTurns:
    """Which source's turn each ordinal is. After any number of rows, each source has had its share of them to within
    one row, so any stretch between has it to within two (with two sources: one)."""

    def __init__(self, parts: Sequence[int]) -> None:
        """`parts`: the shares as whole numbers, such as the rows of each source."""
        assert parts and all(part > 0 for part in parts), f"{parts}: every source has a part"
        divisor = math.gcd(*parts)
        self._parts = [part // divisor for part in parts]
        self._period = sum(self._parts)
        self._counts = [0] * len(parts)
        self._source, self._own = array("I"), array("Q")

    def at(self, ordinal: int) -> tuple[int, int]:
        """The source of an ordinal, and that source's own ordinal."""
        assert ordinal >= 0, f"ordinals are natural numbers, not {ordinal}"
        period, place = divmod(ordinal, self._period)  # after a period everybody has had exactly their share
        while len(self._source) <= place:
            self._append()
        source = self._source[place]
        return source, period * self._parts[source] + self._own[place]

    def _append(self) -> None:
        """The next turn: whose row is due first, among those that are not ahead of their share. Row c of a source may
        stand from place c/share on and must stand before (c+1)/share; the earliest deadline meets all of them."""
        place, parts, counts, period = len(self._source), self._parts, self._counts, self._period
        source = min(
            (number for number, part in enumerate(parts) if counts[number] * period < part * (place + 1)),
            key=lambda number: -(-(counts[number] + 1) * period // parts[number]),
        )
        self._source.append(source)
        self._own.append(counts[source])
        counts[source] += 1


class PairMixture:
    """Pairs of several sources. An epoch has as many rows as all of them; each goes round in epochs of its own."""

    def __init__(self, sources: Sequence[PromptSource], shares: Sequence[float | None]) -> None:
        """`shares`: of all sources but the first, which has the rest; all None: by their rows."""
        self._sources = sources
        parts = parts_of([len(source) for source in sources], shares)
        self._turns = SourceTurns(parts)
        content = json.dumps([parts, [source.fingerprint for source in sources]])
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()[:16]
        """Of all sources and their shares."""

    def __len__(self) -> int:
        """Rows in one epoch."""
        return sum(map(len, self._sources))

    def prompt(self, ordinal: int) -> Prompt:
        """The prompt at one place of the run's order."""
        source, own = self._turns.at(ordinal)
        return replace(self._sources[source].prompt(own), ordinal=ordinal)

    def pair(self, ordinal: int) -> PreferencePair:
        """The pair at one place of the run's order."""
        source, own = self._turns.at(ordinal)
        pair = self._sources[source].pair(own)
        return replace(pair, prompt=replace(pair.prompt, ordinal=ordinal))
