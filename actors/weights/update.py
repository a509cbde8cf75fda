"""What a weight update is made of: its phases, what was exported, what it did, how it failed.

Given nothing; gives the values that the publisher and its transactions work with.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from raylign.rollout.weights.buckets import BucketInfo

CALL_BYTES = 2 << 30
"""About so much is moved or loaded in one call, so that the deadline of a call does not grow with the model."""


class Phase(StrEnum):
    """Where an update stands."""

    IDLE = "idle"
    EXPORT = "export"
    TRAVEL = "travel"
    PREPARE = "prepare"
    TRANSFER = "transfer"
    VERIFY = "verify"
    COMMIT = "commit"
    ABORT = "abort"


class WeightUpdateError(RuntimeError):
    """An update failed. `side` is `learner` or `engine N`; `bucket` counts from 0, None outside the transfer; `died`:
    there is no use in asking that side again."""

    def __init__(
        self, side: str, phase: Phase, version: int, bucket: int | None, cause: str, died: bool = False
    ) -> None:
        where = f"in {phase}" + (f", bucket {bucket + 1}" if bucket is not None else "")
        super().__init__(f"weight update to version {version} failed on {side} {where}: {cause}")
        self.side, self.phase, self.version, self.bucket, self.cause = side, phase, version, bucket, cause
        self.died = died

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.side, self.phase, self.version, self.bucket, self.cause, self.died)


@dataclass(frozen=True)
class ExportedWeights:
    """One version of the learner's weights, set aside for engines to fetch."""

    version: int
    buckets: tuple[BucketInfo, ...]
    """Where they lie: in the memory of the learner's node, or of an engine's to which they were brought."""
    export_s: float

    @property
    def num_bytes(self) -> int:
        return sum(bucket.num_bytes for bucket in self.buckets)

    def calls(self, call_bytes: int = CALL_BYTES) -> list[list[BucketInfo]]:
        """The buckets in order, so many together that a call moves about `call_bytes`; at least one in each."""
        calls: list[list[BucketInfo]] = []
        held_bytes = call_bytes
        for bucket in self.buckets:
            if held_bytes + bucket.num_bytes > call_bytes:
                calls.append([])
                held_bytes = 0
            calls[-1].append(bucket)
            held_bytes += bucket.num_bytes
        return calls


@dataclass(frozen=True)
class WeightUpdate:
    """What one completed update did."""

    version: int
    digest: str
    """Over the weights that every engine holds; the same weights always give the same digest on one kind of engine."""
    num_bytes: int
    num_buckets: int
    export_s: float
    """The learner writing its weights; engines still generate."""
    travel_s: float
    """Bytes on their way to the memory of other nodes; engines still generate."""
    deliver_s: float
    """From the first word to the engines until those that have the weights went on."""
    pause_s: float
    """Of `deliver_s`: engines standing still."""
    load_s: float
    """Of `pause_s`: engines loading."""
    num_attempts: int
    """2 where an engine was sent the version twice."""
    num_replaced: int = 0
    """Engines that had to be replaced."""

    def metrics(self) -> dict[str, float]:
        """Under the names that every run logs."""
        return {
            "weights/version": self.version,
            "weights/bytes": self.num_bytes,
            "weights/export_s": self.export_s,
            "weights/travel_s": self.travel_s,
            "weights/deliver_s": self.deliver_s,
            "weights/pause_s": self.pause_s,
            "weights/load_s": self.load_s,
            "weights/replaced_engines": self.num_replaced,
        }
