"""What the ledger forgets of rows that are done with, and what it must not."""

from __future__ import annotations

import pytest

from raylign.rollout.experience.ledger import REMEMBERED_STEPS
from raylign.rollout.experience.types import LogPosition
from tests.rollout.experience.ledgers import DROPPED, TRAINED, decide, ledger_of, states, unread


def test_nothing_is_rewound_after_forgetting() -> None:
    ledger = ledger_of([0, 1])
    decide(ledger, [0], TRAINED, 0)
    decide(ledger, [1], TRAINED, REMEMBERED_STEPS)
    assert ledger.prune() == 1
    with pytest.raises(AssertionError, match="before anything is forgotten"):
        ledger.rewind(LogPosition(0, 0))


def test_rows_done_with_are_forgotten_after_eight_steps_and_their_ordinals_are_not() -> None:
    ledger = ledger_of([0, 3, 1, 2])
    decide(ledger, [0, 1], TRAINED, 0)
    decide(ledger, [3], TRAINED, REMEMBERED_STEPS - 1)
    assert ledger.prune() == 0 and ledger.row(0) is not None
    decide(ledger, [2], TRAINED, REMEMBERED_STEPS)
    assert ledger.prune() == 2
    assert [ledger.row(offset) is None for offset in range(4)] == [True, True, False, False]
    assert states(ledger, [0, 1, 2, 3, 4]) == ["trained"] * 4 + ["unknown"]
    assert ledger.is_live(3) and not ledger.is_live(4)
    for known in ([0], [3], [1], [9, 3]):
        assert ledger.has_any_of(set(known))
    assert not ledger.has_any_of({4, 9}) and not ledger.has_any_of(set())
    assert ledger.missing_ordinals() == []
    assert ledger.counters().num_trained == 4
    assert ledger.position(REMEMBERED_STEPS) == LogPosition(REMEMBERED_STEPS, 4)


def test_ordinals_forgotten_without_a_gap_are_kept_as_one_number() -> None:
    ledger = ledger_of([1, 2, 0, 4])
    for offset in range(4):
        decide(ledger, [offset], TRAINED, offset)
    ledger.add([4], [9], 10)
    decide(ledger, [4], TRAINED, 1 + REMEMBERED_STEPS)
    assert ledger.prune() == 2 and ledger._done == {1, 2} and ledger._done_below == 0
    ledger.add([5], [10], 10)
    decide(ledger, [5], TRAINED, 3 + REMEMBERED_STEPS)
    assert ledger.prune() == 4 and ledger._done == {4} and ledger._done_below == 3
    assert ledger.has_any_of({2}) and ledger.has_any_of({4}) and not ledger.has_any_of({3, 5})
    assert ledger.missing_ordinals() == [3, 5, 6, 7, 8]


def test_forgetting_stops_at_the_first_row_that_may_be_served_again() -> None:
    ledger = ledger_of(range(3))
    decide(ledger, [0, 2], TRAINED, 0)
    ledger.add([3], [3], 10)
    decide(ledger, [3], TRAINED, 50)
    assert ledger.prune() == 1 and ledger.row(1) is not None and ledger.row(2) is not None
    assert unread(ledger) == ([1], 10, 0)


def test_dropped_and_lost_ordinals_stay_missing_when_their_rows_are_forgotten() -> None:
    ledger = ledger_of(range(5), failed=[3])
    ledger.mark_lost([1, 2])
    ledger.recount()
    ledger.restore_mark([2], TRAINED, 0)  # trained, then damaged
    decide(ledger, [0], DROPPED, 0)
    decide(ledger, [4], TRAINED, REMEMBERED_STEPS)
    assert ledger.prune() == 4
    assert ledger.missing_ordinals() == [0, 1]
    assert states(ledger, range(5)) == ["unknown", "unknown", "trained", "trained", "trained"]


def test_a_row_forgotten_before_its_twin_leaves_the_ordinal_done_with() -> None:
    ledger = ledger_of([0, 1])
    ledger.add([2, 3], [0, 2], 10)
    decide(ledger, [0], TRAINED, 0)
    decide(ledger, [3], TRAINED, REMEMBERED_STEPS)
    assert ledger.prune() == 1 and ledger.row(2) is not None
    assert ledger.state(0) == "trained" and ledger.has_any_of({0})
    assert ledger.position(REMEMBERED_STEPS) == LogPosition(REMEMBERED_STEPS, 1, (3,))  # the twin is not waited for
    decide(ledger, [1], TRAINED, REMEMBERED_STEPS)
    assert ledger.position(REMEMBERED_STEPS) == LogPosition(REMEMBERED_STEPS, 4)


def test_a_dropped_row_forgotten_before_its_twin_leaves_the_twin_to_be_served() -> None:
    ledger = ledger_of([0])
    ledger.add([1, 2], [0, 1], 10)
    decide(ledger, [0], DROPPED, 0)
    decide(ledger, [2], TRAINED, REMEMBERED_STEPS)
    assert ledger.prune() == 1
    assert ledger.state(0) == "waiting" and unread(ledger) == ([1], 10, 0) and ledger.missing_ordinals() == []
