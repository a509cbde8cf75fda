"""Rows of an experience log by where they lie: small values that travel, read by whoever trains on them.

Given a folder and places in its segments; gives the groups, their arrays views of the mapped files: a process on the
log's node that holds a step of any size holds no bytes of it but what it has looked at, and those are the page cache's.
"""

from __future__ import annotations

import mmap
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import xxhash

from raylign.rollout.experience.mapped_files import map_file
from raylign.rollout.experience.schema import SCHEMA, batch_to_groups
from raylign.rollout.experience.segments import Place, damaged, segment_path
from raylign.rollout.sample import Group

CHECKED_BYTES = 16 << 20
"""Looked at and let go of again at once, when checksums are verified."""


@dataclass(frozen=True)
class RowRange:
    """Rows of one record that follow each other."""

    place: Place
    first: int
    count: int


@dataclass(frozen=True)
class LoggedRows:
    """Of a log on this node; the answer to a lease."""

    folder: Path
    ranges: tuple[RowRange, ...]

    def groups(self) -> list[Group]:
        """All of them, in order, once the checksums of their records hold."""
        return [group for batch in self.batches() for group in batch_to_groups(batch)]

    def batch(self) -> pa.RecordBatch:
        """In one batch; copied, where they lie apart."""
        batches = [*self.batches()]
        return batches[0] if len(batches) == 1 else pa.concat_batches(batches)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """A batch for each range."""
        ends: dict[int, int] = {}
        for each in self.ranges:
            segment = each.place.segment
            ends[segment] = max(ends.get(segment, 0), each.place.start + each.place.length)
        maps = {segment: self._mapped(segment, end) for segment, end in ends.items()}
        records: dict[Place, pa.RecordBatch] = {}
        for each in self.ranges:
            if each.place not in records:
                records[each.place] = self._record(maps[each.place.segment], each.place)
            yield records[each.place].slice(each.first, each.count)

    def _mapped(self, segment: int, end: int) -> mmap.mmap | None:
        """None where the file is gone, or too short."""
        try:
            return map_file(segment_path(self.folder, segment), end)
        except (FileNotFoundError, ValueError):
            return None

    def _record(self, mapping: mmap.mmap | None, place: Place) -> pa.RecordBatch:
        if mapping is None or _checksum(mapping, place) != place.checksum:
            raise damaged(self.folder, place)
        return pa.ipc.read_record_batch(pa.py_buffer(_bytes_of(mapping, place)), SCHEMA)


def _bytes_of(mapping: mmap.mmap, place: Place) -> memoryview:
    return memoryview(mapping)[place.start : place.start + place.length]


def _checksum(mapping: mmap.mmap, place: Place) -> str:
    """Of a record. A large one is let go of as it is read, or all of it would count as this process's memory."""
    found, end = xxhash.xxh3_128(), place.start + place.length
    with memoryview(mapping) as bytes_of_it:
        for start in range(place.start, end, CHECKED_BYTES):
            found.update(bytes_of_it[start : min(start + CHECKED_BYTES, end)])
            if place.length > CHECKED_BYTES:
                page = start - start % mmap.PAGESIZE
                mapping.madvise(mmap.MADV_DONTNEED, page, min(start + CHECKED_BYTES, end) - page)
    return found.hexdigest()


class RecordIndex:
    """Which record holds which offset."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._firsts: list[int] = []
        self._places: list[Place] = []

    def add(self, first_offset: int, place: Place) -> None:
        self._firsts.append(first_offset)
        self._places.append(place)

    def rows(self, offsets: Sequence[int]) -> LoggedRows:
        """Those at the offsets, in their order."""
        ranges: list[RowRange] = []
        for offset in offsets:
            number = bisect_right(self._firsts, offset) - 1
            place, row = self._places[number], offset - self._firsts[number]
            last = ranges[-1] if ranges else None
            if last is not None and last.place is place and row == last.first + last.count:
                ranges[-1] = RowRange(place, last.first, last.count + 1)
            else:
                ranges.append(RowRange(place, row, 1))
        return LoggedRows(self._folder, tuple(ranges))

    def prune(self, floor: int) -> None:
        """Records that end below the offset are not asked for any more."""
        num_done = max(0, bisect_right(self._firsts, floor) - 1)
        del self._firsts[:num_done], self._places[:num_done]
