"""The ledger alone: what each row is worth after every verb, without files.

Rows have 10 bytes unless a test says otherwise.
"""

from __future__ import annotations

import pytest

from raylign.rollout.experience.ledger import REMEMBERED_STEPS, Ledger
from raylign.rollout.experience.types import ExperienceError, LogCounters, LogPosition
from tests.rollout.experience.ledgers import DROPPED, FILTERED, TRAINED, decide, ledger_of, recounted, states, unread

# logging


def test_a_new_ledger_is_empty() -> None:
    ledger = Ledger()
    assert ledger.counters() == LogCounters() and unread(ledger) == ([], 0, 0)
    assert (ledger.next_offset, ledger.next_ordinal, ledger.num_logged, ledger.num_refused) == (0, 0, 0, 0)
    assert ledger.missing_ordinals() == [] and ledger.position(-1) == LogPosition(-1, 0)
    ledger.num_refused += 2  # the log counts them
    assert ledger.counters() == LogCounters(num_refused=2)


def test_logged_rows_wait_and_are_counted() -> None:
    ledger = ledger_of([4, 2, 7])
    assert unread(ledger) == ([0, 1, 2], 30, 0)
    assert (ledger.next_offset, ledger.next_ordinal, ledger.num_logged) == (3, 8, 3)
    ledger.add([3], [1], 5)
    assert unread(ledger) == ([0, 1, 2, 3], 35, 0)
    assert (ledger.next_offset, ledger.next_ordinal, ledger.num_logged) == (4, 8, 4)
    assert ledger.counters().num_logged == 4 and ledger.counters().next_ordinal == 8


def test_a_record_without_rows_changes_nothing() -> None:
    ledger = ledger_of([0])
    ledger.add([], [], 10)
    assert unread(ledger) == ([0], 10, 0) and ledger.next_offset == 1


def test_offsets_and_ordinals_come_in_pairs() -> None:
    with pytest.raises(ValueError, match="zip"):
        Ledger().add([0, 1], [0], 10)


def test_failed_rows_are_counted_and_never_wait() -> None:
    ledger = ledger_of([0, 1, 2], failed=[1])
    assert unread(ledger) == ([0, 2], 20, 0)
    assert states(ledger, [0, 1, 2]) == ["waiting", "failed", "waiting"]
    assert ledger.counters().num_failed == 1 and ledger.missing_ordinals() == []
    ledger.add([3, 4], [3, 4], 10, failed=[3, 4])
    assert ledger.counters().num_failed == 3 and unread(ledger) == ([0, 2], 20, 0)


def test_a_twin_does_not_wait_while_the_first_row_counts() -> None:
    ledger = ledger_of([0, 1])
    ledger.add([2, 3], [1, 2], 10)
    assert unread(ledger) == ([0, 1, 3], 30, 0)
    assert not ledger.is_waiting(2) and ledger.is_waiting(3)
    row = ledger.row(2)
    assert row is not None and (row.offset, row.ordinal, row.num_bytes) == (2, 1, 10)
    assert not (row.is_failed or row.is_lost or row.is_leased or row.mark) and row.step == -1
    assert ledger.row(4) is None


def test_ordinals_that_were_never_logged_are_missing_below_the_highest() -> None:
    ledger = ledger_of([1, 4])
    assert ledger.missing_ordinals() == [0, 2, 3]


# leases


def test_leased_rows_come_back_to_their_old_places() -> None:
    ledger = ledger_of(range(5))
    ledger.lease([1, 3])
    assert unread(ledger) == ([0, 2, 4], 30, 2) and states(ledger, [0, 1]) == ["waiting", "leased"]
    ledger.lease([4])
    assert unread(ledger) == ([0, 2], 20, 3)
    ledger.release([3])
    assert unread(ledger) == ([0, 2, 3], 30, 2) and ledger.state(3) == "waiting"
    ledger.release([1])
    assert unread(ledger) == ([0, 1, 2, 3], 40, 1)
    ledger.release([4])
    assert unread(ledger) == ([0, 1, 2, 3, 4], 50, 0)


def test_only_leased_rows_can_be_given_back() -> None:
    ledger = ledger_of([0, 1])
    ledger.lease([1])
    ledger.release([0, 7])  # the one waits, the other is not in the log
    assert unread(ledger) == ([0], 10, 1)
    decide(ledger, [1], TRAINED, 0)
    ledger.release([1])
    assert unread(ledger) == ([0], 10, 0) and ledger.state(1) == "trained"


# decisions


@pytest.mark.parametrize("mark", [TRAINED, FILTERED, DROPPED])
def test_a_decided_row_is_neither_waiting_nor_leased(mark: str) -> None:
    ledger = ledger_of(range(4))
    ledger.lease([1])
    decide(ledger, [1, 2], mark, 3)
    assert unread(ledger) == ([0, 3], 20, 0)
    assert states(ledger, [1, 2]) == [mark, mark]
    counters = ledger.counters()
    counts = {TRAINED: counters.num_trained, FILTERED: counters.num_filtered, DROPPED: counters.num_dropped}
    assert counts == {TRAINED: 0, FILTERED: 0, DROPPED: 0, mark: 2}
    for offset in (1, 2):
        row = ledger.row(offset)
        assert row is not None and (row.mark, row.step, row.is_leased) == (mark, 3, False)
    before = ledger.counters(), list(ledger.waiting)
    assert recounted(ledger) == before


@pytest.mark.parametrize(
    ("offset", "said"),
    [
        (0, "it is trained"),
        (1, "it is failed"),
        (2, "it is lost"),
        (4, "it is waiting"),  # a duplicate: the row before it is
        (9, "it is not in the log, or long done with"),
    ],
)
def test_only_rows_that_wait_or_are_leased_can_be_decided_about(offset: int, said: str) -> None:
    ledger = ledger_of([0, 1, 2, 3], failed=[1])
    ledger.add([4], [3], 10)
    decide(ledger, [0], TRAINED, 0)
    ledger.mark_lost([2])
    ledger.recount()
    ledger.lease([3])
    ledger.check_undecided([3], FILTERED, 5)
    ledger.release([3])
    with pytest.raises(ExperienceError, match=rf"^the group at offset {offset} cannot be filtered in step 5: {said}$"):
        ledger.check_undecided([3, offset], FILTERED, 5)


def test_a_dropped_row_gives_its_place_to_the_next_of_its_ordinal() -> None:
    ledger = ledger_of([0, 1])
    ledger.add([2, 3], [0, 0], 10)
    decide(ledger, [0], DROPPED, 0)
    assert unread(ledger) == ([1, 2], 20, 0) and ledger.state(0) == "waiting" and ledger.is_live(0)
    decide(ledger, [2], DROPPED, 0)
    assert unread(ledger) == ([1, 3], 20, 0)
    decide(ledger, [3], DROPPED, 0)
    assert unread(ledger) == ([1], 10, 0) and ledger.state(0) == "dropped"
    assert not ledger.is_live(0) and ledger.missing_ordinals() == [0]


def test_a_twin_takes_the_place_of_a_dropped_row_once() -> None:
    """Two rows of one ordinal dropped out of order: the live one changes only when it is itself dropped."""
    ledger = ledger_of([0])
    ledger.add([1, 2], [0, 0], 10)
    ledger.mark([1], DROPPED, 0)  # it waited behind
    assert unread(ledger) == ([0], 10, 0)
    ledger.lease([0])
    ledger.mark([2], DROPPED, 0)
    assert unread(ledger) == ([], 0, 1)  # the leased row stays the live one
    ledger.release([0])
    assert unread(ledger) == ([0], 10, 0)


def test_a_failed_or_decided_twin_does_not_wait_when_it_takes_the_place() -> None:
    ledger = ledger_of([0, 1])
    ledger.add([2], [0], 10, failed=[2])
    ledger.add([3], [1], 10)
    decide(ledger, [0], DROPPED, 0)
    assert unread(ledger) == ([1], 10, 0) and ledger.state(0) == "failed"
    ledger.mark([3], TRAINED, 0)
    decide(ledger, [1], DROPPED, 0)
    assert unread(ledger) == ([], 0, 0) and ledger.state(1) == "trained"


# damage


def test_lost_rows_are_missing_until_they_are_logged_again() -> None:
    ledger = ledger_of([0, 1, 2])
    decide(ledger, [2], TRAINED, 0)
    ledger.mark_lost([1, 2])
    ledger.recount()
    assert states(ledger, [0, 1, 2]) == ["waiting", "lost", "trained"]  # what was trained stays so
    assert unread(ledger) == ([0], 10, 0)
    counters = ledger.counters()
    assert (counters.num_lost, counters.num_trained) == (1, 1) and ledger.missing_ordinals() == [1]
    ledger.add([3], [1], 10)
    assert ledger.state(1) == "waiting" and unread(ledger) == ([0, 3], 20, 0) and ledger.missing_ordinals() == []
    decide(ledger, [3], DROPPED, 1)
    assert ledger.state(1) == "dropped"


def test_recounting_counts_every_row_of_a_kind() -> None:
    ledger = ledger_of(range(7), failed=[4, 5])
    decide(ledger, [6], TRAINED, 0)
    ledger.mark_lost([1, 2, 3])
    for _ in range(2):
        ledger.recount()
        counters = ledger.counters()
        assert (counters.num_lost, counters.num_failed, counters.num_trained) == (3, 2, 1)
        assert unread(ledger) == ([0], 10, 0)


def test_decisions_read_from_the_journal_may_name_rows_that_are_gone() -> None:
    ledger = ledger_of([0, 1, 2])
    ledger.restore_mark([0, 7], TRAINED, 4)
    ledger.restore_mark([1], FILTERED, 20)
    ledger.recount()
    assert states(ledger, [0, 1, 2]) == ["trained", "filtered", "waiting"] and unread(ledger) == ([2], 10, 0)
    assert ledger.position(4) == LogPosition(4, 1)  # step 20 trained nothing, so step 4 is the last
    ledger.restore_mark([2], TRAINED, 4 + REMEMBERED_STEPS + 1)
    ledger.restore_mark([2], TRAINED, 0)  # an older line does not turn the time back
    with pytest.raises(ExperienceError, match="after step 13 was trained"):
        ledger.position(4)


# positions


def test_a_position_holds_what_was_done_with_up_to_its_step() -> None:
    ledger = ledger_of(range(6), failed=[4])
    decide(ledger, [0], TRAINED, 0)
    decide(ledger, [2], FILTERED, 1)
    decide(ledger, [3], DROPPED, 2)
    assert ledger.position(-1) == LogPosition(-1, 0)
    assert ledger.position(0) == LogPosition(0, 1)
    assert ledger.position(1) == LogPosition(1, 1, (2,))
    assert ledger.position(2) == LogPosition(2, 1, (2, 3))  # what failed is done with, and needs no mention
    decide(ledger, [1], TRAINED, 3)
    assert ledger.position(3) == LogPosition(3, 5) and ledger.position(2) == LogPosition(2, 1, (2, 3))
    decide(ledger, [5], TRAINED, 3)
    assert ledger.position(3) == LogPosition(3, 6)


def test_a_row_behind_another_of_its_ordinal_is_done_with_when_that_is() -> None:
    ledger = ledger_of([0, 1])
    ledger.add([2, 3], [0, 2], 10)
    decide(ledger, [1], TRAINED, 0)
    assert ledger.position(0) == LogPosition(0, 0, (1,))
    decide(ledger, [0], TRAINED, 1)
    assert ledger.position(0) == LogPosition(0, 0, (1,)) and ledger.position(1) == LogPosition(1, 3)
    decide(ledger, [3], DROPPED, 1)
    assert ledger.position(1) == LogPosition(1, 4)


def test_a_lost_row_is_done_with() -> None:
    ledger = ledger_of([0, 1])
    ledger.mark_lost([0])
    ledger.recount()
    assert ledger.position(0) == LogPosition(0, 1)


def test_positions_are_known_for_eight_steps() -> None:
    assert REMEMBERED_STEPS == 8
    ledger = ledger_of(range(4))
    decide(ledger, [0], TRAINED, 8)
    assert ledger.position(0).step == 0
    decide(ledger, [1], FILTERED, 30)
    assert ledger.position(0).step == 0  # no step was trained since
    decide(ledger, [2], TRAINED, 9)
    decide(ledger, [3], TRAINED, 7)
    assert ledger.position(1).step == 1
    with pytest.raises(
        ExperienceError,
        match=r"^the position of step 0 is asked for after step 9 was trained; it is known for 8 steps only$",
    ):
        ledger.position(0)


# going back


def test_a_rewind_undoes_what_came_after_and_ends_leases() -> None:
    ledger = ledger_of(range(6), failed=[5])
    decide(ledger, [0], TRAINED, 0)
    position = ledger.position(0)
    decide(ledger, [1], TRAINED, 30)
    decide(ledger, [2], DROPPED, 30)
    ledger.lease([3])
    assert ledger.rewind(position) == []
    assert unread(ledger) == ([1, 2, 3, 4], 40, 0)
    assert states(ledger, range(6)) == ["trained", "waiting", "waiting", "waiting", "waiting", "failed"]
    counters = ledger.counters()
    assert (counters.num_trained, counters.num_dropped, counters.num_failed) == (1, 0, 1)
    undone = ledger.row(1)
    assert undone is not None and (undone.mark, undone.step, undone.is_leased) == ("", -1, False)
    assert ledger.position(-8).step == -8  # the last step is 0 again
    with pytest.raises(ExperienceError):
        ledger.position(-9)


def test_what_only_the_position_knows_to_be_done_counts_as_trained() -> None:
    ledger = ledger_of(range(6))
    assert ledger.rewind(LogPosition(7, 2, (3, 4))) == [0, 1, 3, 4]
    assert states(ledger, range(6)) == ["trained", "trained", "waiting", "trained", "trained", "waiting"]
    assert unread(ledger) == ([2, 5], 20, 0) and ledger.counters().num_trained == 4
    row = ledger.row(3)
    assert row is not None and (row.mark, row.step) == (TRAINED, 7)
    assert ledger.position(7) == LogPosition(7, 2, (3, 4)) and ledger.position(6) == LogPosition(6, 0)


def test_new_rows_never_take_offsets_that_the_position_names() -> None:
    for position, next_offset in ((LogPosition(0, 7), 7), (LogPosition(0, 1, (4, 8)), 9), (LogPosition(0, 0), 2)):
        ledger = ledger_of([0, 1])
        ledger.rewind(position)
        assert ledger.next_offset == next_offset


@pytest.mark.parametrize(
    ("first", "is_assumed"), [(TRAINED, False), (FILTERED, False), ("failed", False), (DROPPED, True)]
)
def test_of_two_rows_of_one_ordinal_below_the_position_one_counts(first: str, is_assumed: bool) -> None:
    ledger = Ledger()
    ledger.add([0], [0], 10, failed=[0] if first == "failed" else [])
    ledger.add([1, 2], [5, 0], 10)
    if first != "failed":
        ledger.restore_mark([0], first, 0)
    assert ledger.rewind(LogPosition(0, 3)) == ([1, 2] if is_assumed else [1])
    assert ledger.counters().num_trained == 1 + is_assumed + (first == TRAINED)
    assert unread(ledger) == ([], 0, 0)


def test_a_row_found_lost_after_its_training_was_trained_and_one_lost_before_was_not() -> None:
    ledger = ledger_of(range(3))
    ledger.mark_lost([0, 1])
    ledger.recount()
    assert ledger.rewind(LogPosition(0, 3), frozenset([1])) == [1, 2]
    assert states(ledger, range(3)) == ["lost", "trained", "trained"]
    assert ledger.counters().num_lost == 1 and ledger.missing_ordinals() == [0]
