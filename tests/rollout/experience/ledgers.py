"""Ledgers made by hand, and what they say, in short."""

from __future__ import annotations

from collections.abc import Sequence

from raylign.rollout.experience.ledger import Ledger
from raylign.rollout.experience.types import OrdinalState

TRAINED, FILTERED, DROPPED = OrdinalState.TRAINED, OrdinalState.FILTERED, OrdinalState.DROPPED


def ledger_of(ordinals: Sequence[int], failed: Sequence[int] = ()) -> Ledger:
    """Rows at offsets 0, 1, …, logged together."""
    ledger = Ledger()
    ledger.add(range(len(ordinals)), ordinals, 10, failed)
    return ledger


def decide(ledger: Ledger, offsets: Sequence[int], mark: str, step: int) -> None:
    """As the log does it."""
    ledger.check_undecided(offsets, mark, step)
    ledger.mark(offsets, mark, step)


def unread(ledger: Ledger) -> tuple[list[int], int, int]:
    """(offsets that wait, their bytes, number leased)."""
    counters = ledger.counters()
    assert counters.unread_groups == len(ledger.waiting)
    return list(ledger.waiting), counters.unread_bytes, counters.leased_groups


def recounted(ledger: Ledger) -> tuple[object, object]:
    """What the rows say, worked out anew; the leased ones wait then."""
    ledger.recount()
    return ledger.counters(), list(ledger.waiting)


def states(ledger: Ledger, ordinals: Sequence[int]) -> list[str]:
    return [ledger.state(ordinal) for ordinal in ordinals]
