"""Which of the waiting groups a lease takes: the first ones, or prioritised draws that a restart repeats.

Given how far the rewards of each group spread, and the draws that the journal tells of; gives offsets and importance
weights. After a restart more groups may wait than before it, so drawing again would give others: draws of steps that
were undone are taken from the journal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from raylign.rollout.experience.journal import Entry
from raylign.rollout.experience.ledger import Ledger
from raylign.rollout.experience.types import ExperienceConfig
from raylign.rollout.sample import FloatArray

SMALLEST_PRIORITY = 1e-3
"""Added to the spread, so that groups without any can be drawn."""


class Draws:
    """Of one log. What the journal tells comes first: `leased`, `returned` and `rewind`, then `end_of_journal`."""

    def __init__(self, config: ExperienceConfig, seed: int) -> None:
        self.is_prioritised = config.sampling == "prioritised"
        """Else spreads need not be added."""
        self._config = config
        self._seed = seed
        self._spreads: dict[int, float] = {}
        """Of groups that may be drawn, by offset."""
        self._standing: list[Entry] = []
        self._to_repeat: list[Entry] = []
        """Draws that the journal tells of: those that stand, and those undone, to be done again."""
        self._last: tuple[int, int] = (-1, 0)
        """The step drawn for last, and its number of draws."""

    def add(self, offsets: Sequence[int], spreads: np.ndarray) -> None:
        """Groups that may be drawn; `spreads`: (len(offsets),)."""
        self._spreads.update(zip(offsets, spreads.tolist(), strict=True))

    def discard(self, offsets: Iterable[int]) -> None:
        """Groups that are decided about."""
        for offset in offsets:
            self._spreads.pop(offset, None)

    def take(self, ledger: Ledger, count: int, step: int) -> tuple[list[int], FloatArray]:
        """`count` of the waiting groups for `step`, of which there are as many, and their weights, (count,)."""
        if (entry := self._repeated(ledger, count, step)) is not None:
            self._next_draw(step)
            return list(entry["offsets"]), np.array(entry["weights"], np.float32)
        waiting = np.array(ledger.waiting, np.int64)
        if not self.is_prioritised:
            return waiting[:count].tolist(), np.ones(count, np.float32)
        spreads = np.array([self._spreads[offset] for offset in waiting])
        seed = (self._seed, step, self._next_draw(step))
        return draw_prioritised(waiting, spreads, count, self._config, seed)

    def _repeated(self, ledger: Ledger, count: int, step: int) -> Entry | None:
        if not self._to_repeat:
            return None
        entry = self._to_repeat.pop(0)
        offsets: list[int] = entry["offsets"]
        if entry["step"] != step or len(offsets) != count or not all(map(ledger.is_waiting, offsets)):
            self._to_repeat.clear()  # the loop takes another way than before
            return None
        return entry

    def _next_draw(self, step: int) -> int:
        """Its number within the step, from 0."""
        draw = self._last[1] if self._last[0] == step else 0
        self._last = step, draw + 1
        return draw

    # what the journal tells

    def leased(self, event: Entry) -> None:
        """A draw."""
        follows = self._to_repeat and all(self._to_repeat[0][key] == event[key] for key in ("step", "offsets"))
        self._to_repeat = self._to_repeat[1:] if follows else []
        self._standing.append(event)

    def returned(self, lease_id: str) -> None:
        """The groups of a draw were given back."""
        self._standing = [entry for entry in self._standing if entry["lease_id"] != lease_id]

    def rewind(self, step: int) -> None:
        """A restart undid what came after `step`."""
        drawn = self._standing + self._to_repeat
        self._standing = [entry for entry in drawn if entry["step"] <= step]
        self._to_repeat = [entry for entry in drawn if entry["step"] > step]

    def end_of_journal(self) -> None:
        """Nothing can undo the draws that stand any more."""
        self._standing.clear()


def draw_prioritised(
    waiting: Any, spreads: Any, count: int, config: ExperienceConfig, seed: tuple[int, ...]
) -> tuple[list[int], FloatArray]:
    """Draw without replacement, P ∝ priority^α; weights (N·P)^−β over their maximum (arXiv 1511.05952 §3.3, 3.4)."""
    priorities = (np.asarray(spreads, np.float64) + SMALLEST_PRIORITY) ** config.priority_exponent
    probabilities = priorities / priorities.sum()
    drawn = np.random.default_rng(seed).choice(len(waiting), size=count, replace=False, p=probabilities)
    weights = (len(waiting) * probabilities[drawn]) ** -config.importance_exponent
    return [int(waiting[n]) for n in drawn], (weights / weights.max()).astype(np.float32)
