"""Files that this process has mapped to read: where in which file an array lies, and an array from where it lies.

Given mappings as they are made; gives an array's place for another process of this node, which maps the file itself.
"""

from __future__ import annotations

import mmap
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_mapped: dict[int, tuple[int, str]] = {}
"""Length and file of each mapping that lives, by address."""
_opened: weakref.WeakValueDictionary[str, mmap.mmap] = weakref.WeakValueDictionary()
"""Mappings made for `array_at`, as long as an array of them lives."""


def map_file(path: Path, length: int) -> mmap.mmap:
    """The first bytes of a file."""
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ)
    address = np.frombuffer(mapping, np.uint8).ctypes.data
    _mapped[address] = length, str(path.absolute())
    weakref.finalize(mapping, _mapped.pop, address)
    return mapping


@dataclass(frozen=True)
class FilePlace:
    """Of an array; another process reads the array where this one sends its place."""

    path: str
    start: int
    dtype: str
    length: int

    def __reduce__(self) -> tuple[Any, ...]:
        return array_at, (self.path, self.start, self.dtype, self.length)


def place_of(array: NDArray[Any]) -> FilePlace | None:
    """Where a flat array lies; None where it is no piece of a mapped file."""
    if array.ndim != 1 or not array.flags.c_contiguous:
        return None
    address = array.ctypes.data
    for begin, (length, path) in [*_mapped.items()]:
        if begin <= address and address + array.nbytes <= begin + length:
            return FilePlace(path, address - begin, array.dtype.str, len(array))
    return None


def array_at(path: str, start: int, dtype: str, length: int) -> NDArray[Any]:
    """The array, as a view of the file."""
    end = start + length * np.dtype(dtype).itemsize
    mapping = _opened.get(path)
    if mapping is None or len(mapping) < end:
        with Path(path).open("rb") as file:
            mapping = _opened[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(mapping, dtype, length, start)
