"""The ledger: what became of every prompt ordinal, derived from the log's journal.

Given rows as they are logged and what was decided about them; gives which rows wait, which ordinals must be issued
again, and how far a learner has read. Knows nothing of files or time, nor of what is in flight: a prompt that is being
answered has no row, and whoever issued it (`actors/feeder.py`) keeps it.

Of the rows of one ordinal, the earliest that is neither dropped nor lost is *live*; only live rows are served. A later
one (its prompt was issued again after a drop that a restart has undone) waits behind it, and takes its place if it is
dropped again. So no ordinal is trained twice, whatever is undone.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from raylign.rollout.experience.types import ExperienceError, LogCounters, LogPosition, OrdinalState

MARKS = (OrdinalState.TRAINED, OrdinalState.FILTERED, OrdinalState.DROPPED)
REMEMBERED_STEPS = 8
"""Rows done with for more steps than this are forgotten: a position can be asked for this many steps back."""


@dataclass(slots=True)
class Row:
    """One logged group."""

    offset: int
    ordinal: int
    num_bytes: int
    is_failed: bool = False
    is_lost: bool = False
    mark: str = ""
    step: int = -1
    """In which it was marked."""
    is_leased: bool = False


class Ledger:
    """Rows by offset, ordinals by row."""

    def __init__(self) -> None:
        self._rows: dict[int, Row] = {}
        self._of_ordinal: dict[int, list[int]] = {}
        self._waiting: list[int] = []
        self._counts = dict.fromkeys((*MARKS, OrdinalState.FAILED, OrdinalState.LOST), 0)
        self._unread_bytes = self._num_leased = 0
        self._floor = 0
        """Rows below this offset are forgotten."""
        self._done_below = 0
        self._done: set[int] = set()
        """Forgotten ordinals that are done with for good: all below the one, and the others."""
        self._last_step = -1
        self.next_offset = 0
        self.next_ordinal = 0
        self.num_logged = 0
        self.num_refused = 0

    # what happens

    def add(self, offsets: Sequence[int], ordinals: Sequence[int], num_bytes: int, failed: Sequence[int] = ()) -> None:
        """Rows were logged, each of so many bytes; those at offsets `failed` have no completions."""
        if not offsets:
            return
        are_fresh = not self.has_any_of(set(ordinals))
        for offset, ordinal in zip(offsets, ordinals, strict=True):
            self._rows[offset] = Row(offset, ordinal, num_bytes)
            self._of_ordinal.setdefault(ordinal, []).append(offset)
        for offset in failed:
            self._rows[offset].is_failed = True
        self.num_logged += len(offsets)
        self.next_offset = max(self.next_offset, offsets[-1] + 1)
        self.next_ordinal = max(self.next_ordinal, max(ordinals) + 1)
        self._counts[OrdinalState.FAILED] += len(failed)
        if are_fresh and not failed:
            self._waiting.extend(offsets)
            self._unread_bytes += num_bytes * len(offsets)
            return
        for offset in offsets:
            row = self._rows[offset]
            if not row.is_failed and self._live(row.ordinal) == offset:
                self._start_waiting(row)

    def check_undecided(self, offsets: Iterable[int], mark: str, step: int) -> None:
        """Raise unless all rows wait or are leased: only such rows can be decided about."""
        for offset in offsets:
            row = self._rows.get(offset)
            if row is None or row.mark or row.is_failed or row.is_lost or self._live(row.ordinal) != offset:
                state = "not in the log, or long done with" if row is None else row.mark or self.state(row.ordinal)
                raise ExperienceError(f"the group at offset {offset} cannot be {mark} in step {step}: it is {state}")

    def mark(self, offsets: Iterable[int], mark: str, step: int) -> None:
        """Rows are decided about, for good."""
        for offset in offsets:
            row = self._rows[offset]
            self._stop_waiting(row)
            row.mark, row.step = mark, step
            self._counts[mark] += 1
            if mark == OrdinalState.DROPPED:
                self._promote(row.ordinal)
        if mark == OrdinalState.TRAINED:
            self._last_step = max(self._last_step, step)

    def restore_mark(self, offsets: Iterable[int], mark: str, step: int) -> None:
        """A decision read from the journal, of which other lines may be damaged; `recount` follows."""
        for offset in offsets:
            row = self._rows.get(offset)
            if row is not None:
                row.mark, row.step = mark, step
        if mark == OrdinalState.TRAINED:
            self._last_step = max(self._last_step, step)

    def lease(self, offsets: Iterable[int]) -> None:
        """Rows are handed out."""
        for offset in offsets:
            row = self._rows[offset]
            self._stop_waiting(row)
            row.is_leased = True
            self._num_leased += 1

    def release(self, offsets: Iterable[int]) -> None:
        """Rows that were handed out wait again, in their old places."""
        for offset in offsets:
            row = self._rows.get(offset)
            if row is not None and row.is_leased:
                row.is_leased = False
                self._num_leased -= 1
                self._start_waiting(row)

    def mark_lost(self, offsets: Iterable[int]) -> None:
        """The rows' bytes are damaged; `recount` follows."""
        for offset in offsets:
            self._rows[offset].is_lost = True

    # questions

    @property
    def waiting(self) -> Sequence[int]:
        """Offsets to be served, in log order."""
        return self._waiting

    def is_live(self, ordinal: int) -> bool:
        """Whether a row of the ordinal is in the log and counts."""
        return self._is_done(ordinal) or self._live(ordinal) is not None

    def has_any_of(self, ordinals: set[int]) -> bool:
        """Whether rows of any of them were ever logged."""
        return (
            not self._of_ordinal.keys().isdisjoint(ordinals)
            or not self._done.isdisjoint(ordinals)
            or min(ordinals, default=self._done_below) < self._done_below
        )

    def is_waiting(self, offset: int) -> bool:
        place = bisect_left(self._waiting, offset)
        return place < len(self._waiting) and self._waiting[place] == offset

    def is_marked(self, offset: int, mark: str, step: int) -> bool:
        """Whether just this was decided about the row before."""
        row = self._rows.get(offset)
        return row is not None and (row.mark, row.step) == (mark, step)

    def live_ordinals(self) -> list[int]:
        """Those with a live row, but for the forgotten ones."""
        return [ordinal for ordinal in self._of_ordinal if self._live(ordinal) is not None]

    def row(self, offset: int) -> Row | None:
        return self._rows.get(offset)

    def state(self, ordinal: int) -> str:
        """What became of the ordinal. One forgotten is called trained, though it may have been filtered or failed."""
        if self._is_done(ordinal):
            return OrdinalState.TRAINED
        live = self._live(ordinal)
        if live is None:
            offsets = self._of_ordinal.get(ordinal)
            if not offsets:
                return OrdinalState.UNKNOWN
            return OrdinalState.LOST if self._rows[offsets[-1]].is_lost else OrdinalState.DROPPED
        row = self._rows[live]
        if row.mark:
            return row.mark
        if row.is_failed:
            return OrdinalState.FAILED
        return OrdinalState.LEASED if row.is_leased else OrdinalState.WAITING

    def missing_ordinals(self) -> list[int]:
        """Ordinals below the highest logged without a live row: to be issued again, unless they are in flight. Asked
        when the log is opened, when none are."""
        return [ordinal for ordinal in range(self._done_below, self.next_ordinal) if not self.is_live(ordinal)]

    def position(self, step: int) -> LogPosition:
        """What was done with in steps up to `step`."""
        if step < self._last_step - REMEMBERED_STEPS:
            raise ExperienceError(
                f"the position of step {step} is asked for after step {self._last_step} was trained; "
                f"it is known for {REMEMBERED_STEPS} steps only"
            )
        done = [self._is_done_by(row, step) for row in self._ordered_rows()]
        offsets = [row.offset for row in self._ordered_rows()]
        low = next((offset for offset, is_done in zip(offsets, done, strict=True) if not is_done), self.next_offset)
        marked = (o for o, is_done in zip(offsets, done, strict=True) if is_done and o > low and self._rows[o].mark)
        return LogPosition(step, low, tuple(marked))

    def counters(self) -> LogCounters:
        return LogCounters(
            num_logged=self.num_logged,
            num_trained=self._counts[OrdinalState.TRAINED],
            num_filtered=self._counts[OrdinalState.FILTERED],
            num_dropped=self._counts[OrdinalState.DROPPED],
            num_failed=self._counts[OrdinalState.FAILED],
            num_lost=self._counts[OrdinalState.LOST],
            num_refused=self.num_refused,
            unread_groups=len(self._waiting),
            unread_bytes=self._unread_bytes,
            leased_groups=self._num_leased,
            next_ordinal=self.next_ordinal,
        )

    # going back, forgetting

    def rewind(self, position: LogPosition, found_lost: frozenset[int] = frozenset()) -> list[int]:
        """Everything decided after the position is undone; what it contains stays decided. Leases end.

        Gives the offsets whose decision the position knows and the journal does not: they count as trained. Of lost
        rows, that holds for those found so only now; one lost before the position was made had not been trained.
        """
        assumed = []
        assert self._floor == 0, "rewind comes before anything is forgotten"
        self.next_offset = max(self.next_offset, position.low_water, *(o + 1 for o in position.consumed))
        consumed = set(position.consumed)
        for row in self._ordered_rows():
            row.is_leased = False
            if row.offset < position.low_water or row.offset in consumed:
                earlier = self._of_ordinal[row.ordinal]
                is_duplicate = any(
                    self._rows[o].mark in (OrdinalState.TRAINED, OrdinalState.FILTERED) or self._rows[o].is_failed
                    for o in earlier[: earlier.index(row.offset)]
                )
                is_known_lost = row.is_lost and row.offset not in found_lost
                if not (row.mark or row.is_failed or is_duplicate or is_known_lost):
                    row.mark, row.step = OrdinalState.TRAINED, position.step
                    assumed.append(row.offset)
            else:
                row.mark, row.step = "", -1
        self._last_step = position.step
        self.recount()
        return assumed

    def recount(self) -> None:
        """Work out from the rows what waits and how many there are of each kind."""
        self._waiting, self._unread_bytes, self._num_leased = [], 0, 0
        self._counts = dict.fromkeys(self._counts, 0)
        for row in self._ordered_rows():
            if row.mark:
                self._counts[row.mark] += 1
            elif row.is_lost:
                self._counts[OrdinalState.LOST] += 1
            elif row.is_failed:
                self._counts[OrdinalState.FAILED] += 1
            elif self._live(row.ordinal) == row.offset:
                self._start_waiting(row)

    def prune(self) -> int:
        """Forget rows done with long ago, so that memory does not grow with the run; the lowest offset remembered."""
        step = self._last_step - REMEMBERED_STEPS
        for row in self._ordered_rows():
            if not self._is_done_by(row, step):
                break
            # a dropped row that was not replaced yet keeps its ordinal missing without being remembered
            if row.mark != OrdinalState.DROPPED and not (row.is_lost and not row.mark):
                self._done.add(row.ordinal)
            offsets = self._of_ordinal[row.ordinal]
            offsets.remove(row.offset)
            if not offsets:
                del self._of_ordinal[row.ordinal]
            del self._rows[row.offset]
            self._floor = row.offset + 1
        while self._done_below in self._done:
            self._done.discard(self._done_below)
            self._done_below += 1
        return self._floor

    # inside

    def _ordered_rows(self) -> list[Row]:
        return list(self._rows.values())  # rows are added in the order of their offsets

    def _is_done(self, ordinal: int) -> bool:
        return ordinal < self._done_below or ordinal in self._done

    def _live(self, ordinal: int) -> int | None:
        for offset in self._of_ordinal.get(ordinal, ()):
            row = self._rows[offset]
            if row.mark != OrdinalState.DROPPED and (row.mark or not row.is_lost):
                return offset
        return None

    def _is_done_by(self, row: Row, step: int) -> bool:
        """Whether the row will not be served any more after a restart at `step`."""
        if row.is_failed or row.mark:
            return row.is_failed or row.step <= step
        if row.is_lost or self._is_done(row.ordinal):
            return True
        live = self._live(row.ordinal)
        assert live is not None
        return live != row.offset and self._is_done_by(self._rows[live], step)

    def _start_waiting(self, row: Row) -> None:
        if not self._waiting or row.offset > self._waiting[-1]:
            self._waiting.append(row.offset)
        else:
            insort(self._waiting, row.offset)
        self._unread_bytes += row.num_bytes

    def _stop_waiting(self, row: Row) -> None:
        if row.is_leased:
            row.is_leased = False
            self._num_leased -= 1
            return
        place = bisect_left(self._waiting, row.offset)
        if place < len(self._waiting) and self._waiting[place] == row.offset:
            del self._waiting[place]
            self._unread_bytes -= row.num_bytes

    def _promote(self, ordinal: int) -> None:
        """The next row of an ordinal takes the place of one that was dropped."""
        live = self._live(ordinal)
        row = self._rows[live] if live is not None else None
        if (
            row is not None
            and not row.mark
            and not row.is_failed
            and not row.is_leased
            and not self.is_waiting(row.offset)
        ):
            self._start_waiting(row)
