"""The experience log: scored groups on their way from rollouts to the learner, none lost, none trained twice.

Given a folder, opens what is in it, at the position of a checkpoint; given batches of groups, keeps them on disk and
hands them out in leases. One process owns a log; the Ray actor around it is `actors/experience_host.py`.

    log = ExperienceLog.open(run_folder / "experience", ExperienceConfig(), position)
    log.append(groups_to_batch(groups))                       # safe from kill -9 when it returns
    lease = log.lease(count=64, lease_s=600, step=7)          # None while fewer wait
    log.mark_filtered(useless_offsets, step=7)
    log.settle(lease.lease_id, step=7)                        # the rest of the lease was trained
    log.commit(log.position(step=7))                          # the checkpoint that holds step 7 is on disk

A decision (settle, filter, drop) is a line of the journal, so it survives the process too; a restart at a position
undoes those of later steps, and the same groups are served again in the same order (docs/experience.md).
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raylign.rollout.experience.draws import Draws
from raylign.rollout.experience.journal import Entry, Journal, write_error
from raylign.rollout.experience.ledger import Ledger
from raylign.rollout.experience.logged_rows import RecordIndex
from raylign.rollout.experience.recovery import JOURNAL, Record, Recovered, recover
from raylign.rollout.experience.schema import SCHEMA, has_completions, reward_spreads
from raylign.rollout.experience.segments import Place, SegmentWriter, sync_files
from raylign.rollout.experience.types import (
    Appended,
    ExperienceConfig,
    ExperienceDamage,
    ExperienceError,
    Held,
    Lease,
    LeaseExpiredError,
    LogCounters,
    LogPosition,
    OrdinalState,
)

MIB = 2**20
LOCK_DEADLINE_S = 20.0
"""A killed owner's lock goes with it; this long for its last breath."""


@dataclass
class _OpenLease:
    offsets: list[int]
    """Still to be settled, in the order of the lease."""
    weights: dict[int, float]
    deadline: float


class ExperienceLog:
    """Append, lease, settle, commit. Made by `open`."""

    def __init__(self, folder: Path, config: ExperienceConfig, seed: int, clock: Callable[[], float]) -> None:
        self.folder = folder
        self._config = config
        self._clock = clock
        self._lock: int | None = None
        self._leases: dict[str, _OpenLease] = {}
        self._num_leases = 0
        self._wanted = 0
        self._records = RecordIndex(folder)
        self._draws = Draws(config, seed)
        self.ledger = Ledger()
        self.damage: list[ExperienceDamage] = []
        """Found when it was opened."""
        self.num_torn_bytes = 0
        """Half-written, never acknowledged bytes that were cut off when it was opened."""

    @classmethod
    def open(
        cls,
        folder: Path,
        config: ExperienceConfig,
        position: LogPosition | None = None,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> ExperienceLog:
        """The log in the folder, made if there is none.

        `position`: of the checkpoint to go on from (`START` if there is none); what was decided after it is undone.
        None leaves everything as it stands, but ends all leases: for an owner that died while the learner lived on.
        """
        log = cls(folder, config, seed, clock)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            log._take_lock()
        except OSError as error:
            raise write_error(folder, 0, error) from error
        try:
            recovered = recover(folder)
            assumed = log._load(recovered, position)
            log._session = sum(event["kind"] == "opened" for event in recovered.events)
            log._journal = Journal(folder / JOURNAL, recovered.journal_bytes)
            segment_bytes = int(config.segment_mib * MIB)
            log._writer = SegmentWriter(folder, segment_bytes, recovered.last_segment, recovered.end)
            if assumed and position is not None:
                log._journal.append({"kind": OrdinalState.TRAINED, "step": position.step, "offsets": assumed})
            log._journal.append({"kind": "opened", "position": position.to_json() if position else None})
        except BaseException:
            log._release_lock()
            raise
        return log

    _session: int
    _journal: Journal
    _writer: SegmentWriter

    # producers

    def append(self, batch: Any) -> Appended:
        """Log the groups of a record batch, or of one serialised by `pyarrow.RecordBatch.serialize` (no copy is made
        of that). Survives the death of any process once it returns, and of the machine once a `commit` follows.

        A group whose ordinal is already live in the log is refused: the late duplicate of an expired or lost worker.
        """
        message = pa.py_buffer(batch.serialize() if isinstance(batch, pa.RecordBatch) else batch)
        rows = pa.ipc.read_record_batch(message, SCHEMA)
        rows.validate()
        ordinals: list[int] = rows.column("ordinal").to_pylist()
        kept, refused = self._without_duplicates(ordinals)
        if refused:
            appended = self.append(rows.take(pa.array(kept, pa.int64()))) if kept else Appended(range(0))
            self.ledger.num_refused += len(refused)
            return Appended(appended.offsets, tuple(refused))
        if not ordinals:
            return Appended(range(0))
        if message.size > self._max_unread_bytes:
            self._check_sizes(rows)
        offsets = range(self.ledger.next_offset, self.ledger.next_offset + len(ordinals))
        failed = [offsets[n] for n in np.flatnonzero(~has_completions(rows))]
        place = self._write(message, rows, offsets)
        try:
            self._journal.append(
                {
                    "kind": "append",
                    "segment": place.segment,
                    "start": place.start,
                    "length": place.length,
                    "checksum": place.checksum,
                    "offset": offsets.start,
                    "ordinals": ordinals,
                    "failed": failed,
                }
            )
        except BaseException:
            self._writer.undo_append(place)
            raise
        self._add_record(Record(place, offsets, ordinals, failed))
        if self._draws.is_prioritised:
            self._draws.add(offsets, reward_spreads(rows))
        return Appended(offsets)

    def _without_duplicates(self, ordinals: Sequence[int]) -> tuple[Sequence[int], list[int]]:
        """Rows to log, and ordinals to refuse."""
        kept: list[int] = []
        refused: list[int] = []
        seen = set(ordinals)
        if len(seen) == len(ordinals) and not self.ledger.has_any_of(seen):  # as always, but after a mishap
            return range(len(ordinals)), refused
        seen.clear()
        for row, ordinal in enumerate(ordinals):
            if ordinal in seen or self.ledger.is_live(ordinal):
                refused.append(ordinal)
            else:
                seen.add(ordinal)
                kept.append(row)
        return kept, refused

    def _check_sizes(self, rows: pa.RecordBatch) -> None:
        for n in range(rows.num_rows):
            num_bytes = rows.slice(n, 1).nbytes
            if num_bytes > self._max_unread_bytes:
                raise ValueError(
                    f"the group of prompt {rows.column('ordinal')[n]} takes {num_bytes / MIB:.1f} MiB, more than "
                    f"experience.max_unread_mib = {self._config.max_unread_mib}; raise that, or lower "
                    "rollout.num_completions or rollout.max_tokens"
                )

    def _write(self, message: pa.Buffer, rows: pa.RecordBatch, offsets: range) -> Place:
        column = rows.column("offset")
        offset_byte = column.buffers()[1].address + 8 * column.offset - message.address
        return self._writer.append(memoryview(message), offset_byte, np.array(offsets, np.int64))

    @property
    def has_room(self) -> bool:
        """Whether new groups may be started: false while too many bytes wait. A lease that waits for more groups
        than there are makes room, or nobody could move."""
        return self.ledger.counters().unread_bytes < self._max_unread_bytes or self.num_lacking > 0

    @property
    def num_lacking(self) -> int:
        """Groups that the lease asked for last still waits for."""
        return max(0, self._wanted - len(self.ledger.waiting))

    # the learner

    def lease(self, count: int, lease_s: float, step: int = 0) -> Lease | None:
        """The next `count` groups for `step`; None while fewer wait. They wait again, in their old places, when they
        were neither settled nor decided about in `lease_s` seconds."""
        if count < 1:
            raise ValueError(f"a lease of {count} groups: at least 1 can be asked for")
        self.expire()
        if len(self.ledger.waiting) < count:
            self._wanted = count
            return None
        offsets, weights = self._draws.take(self.ledger, count, step)
        lease_id = f"{self._session}-{self._num_leases}"
        if self._draws.is_prioritised:
            entry = {"kind": "leased", "lease_id": lease_id, "step": step, "offsets": offsets}
            self._journal.append({**entry, "weights": weights.tolist()})
        self._num_leases += 1
        self._wanted = 0
        self.ledger.lease(offsets)
        by_offset = dict(zip(offsets, weights.tolist(), strict=True))
        self._leases[lease_id] = _OpenLease(offsets, by_offset, self._clock() + lease_s)
        return Lease(lease_id, step, tuple(offsets), self._records.rows(offsets), weights)

    def hold(self, held: Iterable[Held], lease_s: float) -> None:
        """Leases of a process before this one, which its learner still has, go on; what was decided about stays so."""
        for lease in held:
            if lease.lease_id in self._leases or lease.lease_id.startswith(f"{self._session}-"):
                continue
            offsets = [offset for offset in lease.offsets if self.ledger.is_waiting(offset)]
            self.ledger.lease(offsets)
            weights = dict(zip(lease.offsets, lease.weights, strict=True))
            self._leases[lease.lease_id] = _OpenLease(offsets, weights, self._clock() + lease_s)

    def expire(self) -> float | None:
        """Give back what expired leases held; seconds until the next lease expires."""
        now = self._clock()
        for lease_id in [lease_id for lease_id, lease in self._leases.items() if lease.deadline <= now]:
            self.release(lease_id)
        return min((lease.deadline - now for lease in self._leases.values()), default=None)

    def release(self, lease_id: str) -> None:
        """Give a lease's groups back."""
        lease = self._lease(lease_id)
        if self._draws.is_prioritised:
            self._journal.append({"kind": "returned", "lease_id": lease_id})
        del self._leases[lease_id]
        self.ledger.release(lease.offsets)

    def settle(self, lease_id: str, step: int) -> None:
        """What the lease still holds was trained in `step`."""
        self.expire()
        lease = self._lease(lease_id)
        if lease.offsets:
            weights = [lease.weights[offset] for offset in lease.offsets]
            extra = {"weights": weights} if any(weight != 1.0 for weight in weights) else {}
            self._decide(list(lease.offsets), OrdinalState.TRAINED, step, extra)
        self._leases.pop(lease_id, None)
        self._prune()

    def mark_filtered(self, offsets: Iterable[int], step: int) -> None:
        """Leave groups out for good, in `step`: they teach nothing."""
        self._decide(list(offsets), OrdinalState.FILTERED, step, {})

    def mark_dropped(self, offsets: Iterable[int], reason: str, step: int) -> list[int]:
        """Throw groups away in `step`. Gives the ordinals that must be issued again: of the others, a later row takes
        the place of the dropped one."""
        offsets = list(offsets)
        ordinals = [row.ordinal for offset in offsets if (row := self.ledger.row(offset)) is not None]
        self._decide(offsets, OrdinalState.DROPPED, step, {"reason": reason})
        return [ordinal for ordinal in ordinals if not self.ledger.is_live(ordinal)]

    def _decide(self, offsets: list[int], mark: str, step: int, extra: Entry) -> None:
        # a call is repeated when the log's process dies in it: what was decided before the answer was lost stands
        offsets = [offset for offset in offsets if not self.ledger.is_marked(offset, mark, step)]
        if not offsets:
            return
        self.ledger.check_undecided(offsets, mark, step)
        self._journal.append({"kind": mark, "step": step, "offsets": offsets, **extra})
        self.ledger.mark(offsets, mark, step)
        decided = set(offsets)
        for lease in self._leases.values():
            if not decided.isdisjoint(lease.offsets):
                lease.offsets = [offset for offset in lease.offsets if offset not in decided]
        self._draws.discard(offsets)

    def _lease(self, lease_id: str) -> _OpenLease:
        if lease_id not in self._leases:
            raise LeaseExpiredError(
                f"there is no lease {lease_id}: it expired, was settled, or the log was opened since; "
                "its groups wait to be leased again"
            )
        return self._leases[lease_id]

    # checkpoints

    def position(self, step: int) -> LogPosition:
        """What a checkpoint of the state after `step` must keep. Decisions of later steps are not in it."""
        return self.ledger.position(step)

    def commit(self, position: LogPosition) -> None:
        """A checkpoint that contains the position is on disk. What was logged until now survives the machine."""
        sync_files(self.begin_commit(position))

    def begin_commit(self, position: LogPosition) -> list[Path]:
        """`commit` but for the wait: the files to be given to `sync_files`, in another thread if need be. The journal's
        line about it is for people: the checkpoint itself says where to go on."""
        self._journal.append({"kind": "commit", "position": position.to_json()})
        return [*self._writer.take_unsynced(), self._journal.path]

    @property
    def counters(self) -> LogCounters:
        """For metrics and admission."""
        return self.ledger.counters()

    def close(self) -> None:
        """Everything is on disk after it. Leases are void."""
        if self._lock is not None:
            sync_files([*self._writer.take_unsynced(), self._journal.path])
            self._writer.close()
            self._journal.close()
            self._release_lock()

    def __enter__(self) -> ExperienceLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # inside

    @property
    def _max_unread_bytes(self) -> float:
        return self._config.max_unread_mib * MIB

    def _load(self, recovered: Recovered, position: LogPosition | None) -> list[int]:
        """The state that the journal tells of; the offsets that only the position knows to be trained."""
        for record in recovered.records:
            self._add_record(record)
        for event in recovered.events:
            self._replay_event(event)
        self.ledger.recount()
        found_lost = frozenset(offset for damage in recovered.damage for offset in damage.offsets)
        assumed = self._rewind(position, found_lost) if position is not None else []
        self.num_torn_bytes = recovered.num_torn_bytes
        self.damage = [self._narrowed(damage) for damage in recovered.damage]
        if self._draws.is_prioritised:
            waiting = [*self.ledger.waiting]
            spreads = [reward_spreads(batch) for batch in self._records.rows(waiting).batches()]
            self._draws.add(waiting, np.concatenate([np.zeros(0), *spreads]))
        self._draws.end_of_journal()
        self._prune()
        return assumed

    def _replay_event(self, event: Entry) -> None:
        kind = event["kind"]
        if kind in (OrdinalState.TRAINED, OrdinalState.FILTERED, OrdinalState.DROPPED):
            self.ledger.restore_mark(event["offsets"], kind, event["step"])
        elif kind == "opened" and event["position"] is not None:
            self._rewind(LogPosition.from_json(event["position"]))
        elif kind == "leased":
            self._draws.leased(event)
        elif kind == "returned":
            self._draws.returned(event["lease_id"])

    def _rewind(self, position: LogPosition, found_lost: frozenset[int] = frozenset()) -> list[int]:
        self._draws.rewind(position.step)
        return self.ledger.rewind(position, found_lost)

    def _narrowed(self, damage: ExperienceDamage) -> ExperienceDamage:
        """Of the damaged record's groups, those that are truly lost: not trained by what we go on from."""
        lost = tuple(o for o in damage.offsets if (row := self.ledger.row(o)) is not None and not row.mark)
        return ExperienceDamage(**{**vars(damage), "offsets": lost})

    def _add_record(self, record: Record) -> None:
        num_bytes = record.place.length // max(1, len(record.offsets))
        self.ledger.add(record.offsets, record.ordinals, num_bytes, record.failed)
        if record.is_lost:
            self.ledger.mark_lost(record.offsets)
        elif record.offsets:
            self._records.add(record.offsets[0], record.place)

    def _prune(self) -> None:
        self._records.prune(self.ledger.prune())

    def _take_lock(self) -> None:
        """Held until `close` or the end of the process, however it ends."""
        lock = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        deadline = time.monotonic() + LOCK_DEADLINE_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(lock)
                    raise ExperienceError(
                        f"another process has had the experience log {self.folder} open for {LOCK_DEADLINE_S:.0f} s; "
                        "end it, or choose another run folder"
                    ) from None
                time.sleep(0.05)
            else:
                self._lock = lock
                return

    def _release_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
