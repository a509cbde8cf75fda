"""What the experience log is told and what it answers: config, position, lease, damage, errors.

Given nothing; gives the types that the log, its actor host and the train loop share. Imports nothing heavy: the command
line reads the config from here. The log itself is `experience_log.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from raylign.rollout.sample import FloatArray

FOLDER_NAME = "experience"
"""Of the log, inside the run folder."""


class ExperienceConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """Where scored groups wait between rollouts and learner, on disk."""

    max_unread_mib: float = Field(1024.0, gt=0)
    """Backpressure: no new group is started while more than this waits for the learner."""
    segment_mib: float = Field(256.0, gt=0)
    """A segment file of the log is closed and the next one begun when it is this large."""
    sampling: Literal["fifo", "prioritised"] = "fifo"
    """fifo: groups are trained in the order they were logged; prioritised: drawn by the spread of their rewards."""
    priority_exponent: float = Field(0.6, ge=0)
    """α of prioritised sampling: a group is drawn with probability ∝ (standard deviation of its rewards + 0.001)^α."""
    importance_exponent: float = Field(0.4, ge=0, le=1)
    """β of prioritised sampling: a drawn group's weight is (N · probability)^−β, divided by the largest."""


@dataclass(frozen=True)
class LogPosition:
    """How far a learner has read: what a checkpoint keeps of the log.

    Everything below `low_water` and the offsets of `consumed` (at or above it) were trained, filtered or dropped in
    steps up to `step`; the rest is served again.
    """

    step: int = -1
    low_water: int = 0
    consumed: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"step": self.step, "low_water": self.low_water, "consumed": list(self.consumed)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LogPosition:
        """Back from a checkpoint."""
        return cls(int(value["step"]), int(value["low_water"]), tuple(int(offset) for offset in value["consumed"]))


START = LogPosition()
"""Before the first group: a run that has no checkpoint yet."""


@dataclass(frozen=True)
class Appended:
    """What an append did: the rows' offsets, and ordinals refused because the log already has a live group of them."""

    offsets: range
    refused: tuple[int, ...] = ()


@dataclass(frozen=True)
class Lease:
    """Groups handed out until `settle`, or until the lease expires and they wait in their old places again."""

    lease_id: str
    step: int
    offsets: tuple[int, ...]
    rows: Any
    """`logged_rows.LoggedRows`, in the order of `offsets`: where they lie, for a reader on the log's node."""
    weights: FloatArray
    """(len(offsets),) importance weights; all 1 unless sampling is prioritised."""


@dataclass(frozen=True)
class Held:
    """A lease as whoever was given it remembers it: enough for another process of the log to go on with it."""

    lease_id: str
    offsets: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class ExperienceDamage:
    """Acknowledged data that cannot be read any more."""

    file: str
    record: int
    """Number of the record (one append) in the file, from 0; for the journal, the line's number."""
    byte: int
    num_bytes: int
    offsets: tuple[int, ...]
    """Groups lost: those that no committed step had trained; their prompts are issued again."""
    kept_as: str
    """File that holds the damaged bytes; empty where there were none."""
    reason: str

    def __str__(self) -> str:
        lost = f"groups at offsets {_ranges(self.offsets)} are lost" if self.offsets else "no untrained group is lost"
        kept = f"; the damaged bytes are kept in {self.kept_as}" if self.kept_as else ""
        return (
            f"{self.file} is damaged: record {self.record} at byte {self.byte} ({self.num_bytes} bytes): "
            f"{self.reason}; {lost}{kept}"
        )


@dataclass(frozen=True)
class Opened:
    """How a log was found."""

    damage: tuple[ExperienceDamage, ...]
    missing_ordinals: tuple[int, ...]
    """To be issued again: below `next_ordinal`, without a live group."""
    next_ordinal: int


@dataclass(frozen=True)
class Arrivals:
    """News for whoever issues prompts."""

    ordinals: tuple[int, ...]
    """Of the groups that came, failed ones included."""
    num_waiting: int
    """Groups that are to be trained and are not yet: waiting or leased."""
    num_room: int | None
    """Groups of the size seen so far that fit into the byte budget beside those that wait; None before the first."""


class ExperienceError(RuntimeError):
    """Something that the experience log cannot or must not do."""

    says_it_all = True
    """To a user: what, where, what to do; no traceback is needed."""


class ExperienceWriteError(ExperienceError):
    """The log could not be written; what was acknowledged before is safe. `__cause__` is the operating system's."""

    def __init__(self, path: Path | str, num_bytes: int, error: OSError) -> None:
        super().__init__(path, num_bytes, error)
        self.path, self.num_bytes, self.error = str(path), num_bytes, error

    what_to_do = "check that the folder is writable and its disk is well, then go on by --resume"

    def __str__(self) -> str:
        return (
            f"cannot write {self.num_bytes} bytes to the experience log {self.path}: "
            f"{self.error.strerror or self.error}; nothing that was acknowledged is lost; {self.what_to_do}"
        )


class ExperienceFullError(ExperienceWriteError):
    """No room on the disk, or over a quota or size limit."""

    what_to_do = "make room on that disk, or move the run folder to a larger one, then go on by --resume"


class ExperienceDamageError(ExperienceError):
    """Data that was asked for is damaged."""


class LeaseExpiredError(ExperienceError):
    """The lease's groups were given back, so they cannot be settled."""


class ReplayEndedError(ExperienceError):
    """The recorded run has no such step."""


class OrdinalState:
    """What became of a prompt ordinal (`Ledger.state`)."""

    UNKNOWN = "unknown"
    """Not in the log: never issued, in flight (the feeder knows), or issued by a process that is gone."""
    WAITING = "waiting"
    """Logged and not read."""
    LEASED = "leased"
    TRAINED = "trained"
    FILTERED = "filtered"
    """Read and left out for good (no reward spread)."""
    DROPPED = "dropped"
    """Read and thrown away (too old): to be issued again."""
    FAILED = "failed"
    """Logged without completions; not issued again."""
    LOST = "lost"
    """Logged, but the file is damaged: to be issued again."""


@dataclass(frozen=True)
class LogCounters:
    """For admission, and to see how it stands. Groups, since the run began, as the position sees it."""

    num_logged: int = 0
    """Groups in the log, duplicates and lost ones included."""
    num_trained: int = 0
    num_filtered: int = 0
    num_dropped: int = 0
    num_failed: int = 0
    num_refused: int = 0
    """Late duplicates that were not logged, since the log was opened."""
    num_lost: int = 0
    unread_groups: int = 0
    """Waiting, not leased."""
    unread_bytes: int = 0
    leased_groups: int = 0
    next_ordinal: int = 0


def _ranges(offsets: tuple[int, ...]) -> str:
    """`3-7, 9`."""
    values: NDArray[np.int64] = np.array(sorted(offsets), np.int64)
    runs = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
