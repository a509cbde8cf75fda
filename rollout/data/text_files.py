"""Text files as people bring them: packed or not, in UTF-8 or in what a byte-order mark or a key says.

Given a path, the `encoding` of the config and the size up to which a packed file is unpacked; gives the open text.
"""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

GIB = 1 << 30
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
MOST_UNPACKED = 1100
"""Times its size that a gzip file can hold (deflate: 1032)."""


@contextmanager
def open_text(path: Path, encoding: str | None, max_unpacked_gib: float, newline: str = "\n") -> Iterator[TextIO]:
    """The text of a file, lines ending at `newline` only ("": at every kind). Wrong bytes are a ValueError."""
    packed = path.name.lower().endswith(".gz")
    used = encoding or "utf-8"
    try:
        if packed:
            check_unpacked_size(path, max_unpacked_gib)
        open_bytes = gzip.open if packed else open
        with open_bytes(path, "rb") as file:
            used = _marked_encoding(file.read(4)) or used
        if packed:
            with gzip.open(path, "rt", encoding=used, newline=newline) as text:
                yield text
        else:
            with path.open(encoding=used, newline=newline) as text:
                yield text
    except UnicodeError as error:
        raise ValueError(
            f"{path}: not {'UTF-8' if used == 'utf-8' else used} text ({error}); set data.encoding to how it was "
            "written, for instance cp1252, latin-1 or utf-16"
        ) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: broken gzip file ({error})") from error


def check_unpacked_size(path: Path, max_unpacked_gib: float) -> None:
    """Raise, after unpacking no more than that, where a gzip file holds more than the limit."""
    limit = max_unpacked_gib * GIB
    if path.stat().st_size * MOST_UNPACKED <= limit:
        return
    num_bytes = 0
    with gzip.open(path, "rb") as file:
        while part := file.read(1 << 22):
            num_bytes += len(part)
            if num_bytes > limit:
                raise ValueError(
                    f"{path}: {path.stat().st_size / 1e6:.1f} MB that unpack to more than {max_unpacked_gib:g} GiB; "
                    "all rows are held in memory. Raise data.max_unpacked_gib if that is right"
                )


def _marked_encoding(first_bytes: bytes) -> str | None:
    return next((name for mark, name in BYTE_ORDER_MARKS if first_bytes.startswith(mark)), None)
