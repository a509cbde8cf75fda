"""The segment files of the experience log: Arrow IPC streams, a record batch an append.

Given serialised batches, writes them behind each other, and says where each lies (`logged_rows.py` reads them). A
record that is damaged is kept aside, and a record without rows is put in its place, so that the file stays a valid
stream and all other records stay where they are.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from raylign.rollout.experience.journal import cut, open_for_writing, write, write_error
from raylign.rollout.experience.schema import SCHEMA
from raylign.rollout.experience.types import ExperienceDamageError

HEADER: bytes = SCHEMA.serialize().to_pybytes()
"""The schema message that every segment begins with."""


@dataclass(frozen=True)
class Place:
    """Where a record lies."""

    segment: int
    start: int
    length: int
    checksum: str
    """xxh3_128 of its bytes."""


def segment_path(folder: Path, segment: int) -> Path:
    return folder / f"segment-{segment:06d}.arrows"


def segments_in(folder: Path) -> list[int]:
    """Numbers of the segment files that are there."""
    return sorted(int(path.stem.removeprefix("segment-")) for path in folder.glob("segment-*.arrows"))


class SegmentWriter:
    """The last segment, growing."""

    def __init__(self, folder: Path, segment_bytes: int, segment: int, end: int) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._file: int | None = None
        self._unsynced: set[Path] = set()
        self._path = segment_path(folder, segment)
        self.segment = segment
        self.end = end
        """Where the next record goes; 0: the file is not there yet."""
        if end:
            self._file = open_for_writing(self._path)
            cut(self._file, self._path, end)

    def append(self, message: memoryview, offset_byte: int, offsets: NDArray[np.int64]) -> Place:
        """Write a serialised batch, with its offset column (at byte `offset_byte`) replaced."""
        if self._file is None or (self.end > len(HEADER) and self.end + len(message) > self._segment_bytes):
            self._begin_next()
        assert self._file is not None
        parts = [message[:offset_byte], offsets.data.cast("B"), message[offset_byte + offsets.nbytes :]]
        checksum = xxhash.xxh3_128()
        for part in parts:
            checksum.update(part)
        write(self._file, self._path, parts, self.end)
        self._unsynced.add(self._path)
        place = Place(self.segment, self.end, len(message), checksum.hexdigest())
        self.end += len(message)
        return place

    def undo_append(self, place: Place) -> None:
        """Cut the last record off: it could not be acknowledged."""
        assert self._file is not None
        self.end = place.start
        cut(self._file, self._path, self.end)

    def _begin_next(self) -> None:
        """A new file, which counts only once its header is written."""
        segment = self.segment + 1 if self._file is not None else self.segment
        path = segment_path(self._folder, segment)
        file = open_for_writing(path)
        try:
            cut(file, path, 0)
            write(file, path, [HEADER], 0)
        except BaseException:
            os.close(file)
            path.unlink(missing_ok=True)
            raise
        if self._file is not None:
            os.close(self._file)
        self._file, self._path, self.segment, self.end = file, path, segment, len(HEADER)

    def take_unsynced(self) -> list[Path]:
        """What `sync_files` must be given so that all that was appended survives the death of the machine."""
        paths, self._unsynced = sorted(self._unsynced), set()
        return [*paths, self._folder]

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def sync_files(paths: list[Path]) -> None:
    """Wait until files and folders are on the disk, not only with the kernel."""
    for path in paths:
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(file)
            finally:
                os.close(file)
        except OSError as error:
            raise write_error(path, 0, error) from error


def damaged(folder: Path, place: Place) -> ExperienceDamageError:
    """The error of whoever finds a record so."""
    return ExperienceDamageError(
        f"{segment_path(folder, place.segment)}: the record at byte {place.start} ({place.length} bytes) is damaged; "
        "go on by --resume, which keeps the damaged bytes aside and issues its prompts again"
    )


def why_damaged(folder: Path, place: Place) -> str | None:
    """What is wrong with a record; None if nothing is."""
    message = _mapped(segment_path(folder, place.segment), place.start, place.length)
    if message is None:
        return "the file ends before the record does"
    found = xxhash.xxh3_128_hexdigest(message)
    return None if found == place.checksum else f"checksum {found} instead of {place.checksum}"


def _mapped(path: Path, start: int, length: int) -> memoryview | None:
    """Bytes of a file; None where the file is shorter."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < start + length:
                return None
            page = start % mmap.ALLOCATIONGRANULARITY
            mapping = mmap.mmap(file.fileno(), length + page, access=mmap.ACCESS_READ, offset=start - page)
    except FileNotFoundError:
        return None
    return memoryview(mapping)[page:]


def has_header(path: Path) -> bool:
    """Whether the segment begins with the schema."""
    with path.open("rb") as file:
        return file.read(len(HEADER)) == HEADER


def quarantine(path: Path, start: int, length: int) -> str:
    """Copy bytes to a file beside; its name, empty where there are no bytes."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            content = file.read(length)
    except FileNotFoundError:
        content = b""
    if not content:
        return ""
    kept = path.with_name(f"{path.name}.damaged-at-{start}")
    number = 1
    while kept.exists():
        number += 1
        kept = path.with_name(f"{path.name}.damaged-at-{start}.{number}")
    file_number = open_for_writing(kept)
    try:
        write(file_number, kept, [content], 0)
        os.fsync(file_number)
    finally:
        os.close(file_number)
    return kept.name


def write_filler(folder: Path, segment: int, start: int, length: int) -> None:
    """A record without rows in place of a damaged one; at 0, the header. A file too short is made long enough."""
    path = segment_path(folder, segment)
    filler = HEADER if start == 0 else _filler(length)
    file = open_for_writing(path)
    try:
        if os.fstat(file).st_size == 0 and start:
            write(file, path, [HEADER], 0)
        write(file, path, [filler, bytes(max(0, length - len(filler)))], start, may_cut=False)
        os.fsync(file)
    finally:
        os.close(file)


def _filler(length: int) -> bytes:
    """An Arrow message without rows which says that its metadata, filled up with zeros, is as long as that."""
    nothing = pa.RecordBatch.from_arrays([pa.array([], field.type) for field in SCHEMA], schema=SCHEMA)
    message = nothing.serialize().to_pybytes()
    (metadata_bytes,) = struct.unpack_from("<I", message, 4)
    if len(message) > length:
        return bytes(length)  # less than a record: such bytes were never one
    body_bytes = len(message) - 8 - metadata_bytes  # of offsets, all 0
    return struct.pack("<iI", -1, length - 8 - body_bytes) + message[8 : 8 + metadata_bytes]


def salvage_rows(folder: Path, segment: int, start: int, end: int) -> Iterator[tuple[int, int, list[int], list[int]]]:
    """(first byte, bytes, offsets, ordinals) of records whose journal line is damaged: enough to know which prompts
    they were, not enough to trust them."""
    path = segment_path(folder, segment)
    while start < end:
        message = _mapped(path, start, end - start)
        if message is None:
            return
        try:
            reader = pa.BufferReader(pa.py_buffer(message))
            batch = pa.ipc.read_record_batch(pa.ipc.read_message(reader), SCHEMA)
            batch.validate(full=True)
            length = reader.tell()
            yield start, length, batch.column("offset").to_pylist(), batch.column("ordinal").to_pylist()
        except (pa.ArrowException, OSError, EOFError):
            return
        start += length
