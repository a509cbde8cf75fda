"""The journal of the experience log: one line for each thing that happened, in order.

Given a file, gives its entries (plain dicts) and what is damaged; given an entry, appends it. A line is a checksum, a
space and JSON; it is whole if its checksum says so, and was acknowledged if it ends with a newline.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raylign.rollout.experience.types import ExperienceFullError, ExperienceWriteError

Entry = dict[str, Any]
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass
class JournalScan:
    """What a journal file holds."""

    entries: list[Entry] = field(default_factory=list)
    damaged: list[tuple[int, int, int]] = field(default_factory=list)
    """(line number, first byte, bytes) of lines that are not what was written."""
    num_bytes: int = 0
    """Of whole lines; anything after it was never acknowledged."""
    num_torn_bytes: int = 0
    num_blank: int = 0
    """Damaged lines that were taken out before."""


def scan(path: Path) -> JournalScan:
    """Read the whole file. A line of spaces stands where a damaged one was taken out."""
    found = JournalScan()
    content = path.read_bytes() if path.exists() else b""
    lines = content.split(b"\n")
    tail = lines.pop()
    if tail and _parsed(tail[:-1]) is not None:  # whole but for its newline: that is a flipped bit, not a torn write
        lines.append(tail[:-1])
        found.damaged.append((len(lines) - 1, len(content) - 1, 1))
        tail = b""
    for number, line in enumerate(lines):
        entry = _parsed(line)
        if entry is not None:
            found.entries.append(entry)
        elif line.strip(b" "):
            found.damaged.append((number, found.num_bytes, len(line)))
        else:
            found.num_blank += 1
        found.num_bytes += len(line) + 1
    found.num_torn_bytes = len(tail)
    return found


class Journal:
    """Appends to the file. The caller holds the log's lock."""

    def __init__(self, path: Path, num_bytes: int) -> None:
        self.path = path
        self._file = open_for_writing(path)
        self.num_bytes = num_bytes
        cut(self._file, path, num_bytes)

    def append(self, entry: Entry) -> None:
        """On the file descriptor when it returns: safe from the death of any process."""
        text = json.dumps(entry, separators=(",", ":")).encode()
        line = b"%s %s\n" % (_checksum(text), text)
        write(self._file, self.path, [line], self.num_bytes)
        self.num_bytes += len(line)

    def blank(self, first_byte: int, num_bytes: int) -> None:
        """Take a damaged line out; a lost newline is put back."""
        write(self._file, self.path, [b"\n" if num_bytes == 1 else b" " * num_bytes], first_byte, may_cut=False)

    def close(self) -> None:
        os.close(self._file)


def open_for_writing(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise write_error(path, 0, error) from error


def write(file: int, path: Path, parts: list[Any], start: int, may_cut: bool = True) -> None:
    """All parts from `start`, or nothing: what was half-written is cut off before the error is raised."""
    num_bytes = sum(len(part) for part in parts)
    done = 0
    try:
        while done < num_bytes:
            done += os.pwritev(file, _after(parts, done), start + done)
    except OSError as error:
        if may_cut and done:
            cut(file, path, start)
        raise write_error(path, num_bytes, error) from error


def cut(file: int, path: Path, num_bytes: int) -> None:
    """The file ends there."""
    try:
        if os.fstat(file).st_size > num_bytes:
            os.ftruncate(file, num_bytes)
    except OSError as error:
        raise write_error(path, 0, error) from error


def write_error(path: Path, num_bytes: int, error: OSError) -> ExperienceWriteError:
    kind = ExperienceFullError if error.errno in NO_ROOM else ExperienceWriteError
    return kind(path, num_bytes, error)


def _after(parts: list[Any], done: int) -> list[Any]:
    """What is left of the parts once so many bytes are written."""
    if not done:
        return parts
    left = []
    for part in parts:
        if done < len(part):
            left.append(memoryview(part)[done:])
        done = max(0, done - len(part))
    return left


def _parsed(line: bytes) -> Entry | None:
    checksum, _, text = line.partition(b" ")
    return json.loads(text) if checksum and checksum == _checksum(text) else None


def _checksum(text: bytes) -> bytes:
    import xxhash

    return xxhash.xxh3_64_hexdigest(text).encode()
