"""The passages of a library: directories or files of JSON lines and Parquet.

Given paths, gives the text of each row: the key `text`, else all values joined. Lines that cannot be read and rows
without text are left out and counted; a library without lines or without any text is refused.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
TEXT = "text"
ROWS_AT_ONCE = 1024


@dataclass
class LibraryCounts:
    """What was found on the way."""

    num_files: int = 0
    num_rows: int = 0
    num_broken: int = 0
    """Lines that are no JSON, no UTF-8, or no object."""
    num_without_text: int = 0

    @property
    def num_passages(self) -> int:
        return self.num_rows - self.num_broken - self.num_without_text


def library_files(paths: Sequence[str | Path]) -> list[Path]:
    """All files, directories searched to the bottom, each once, in the order of the paths and of the names."""
    files: dict[Path, None] = {}
    for path in map(Path, paths):
        if path.is_dir():
            found = [file for file in sorted(path.rglob("*")) if file.name.lower().endswith(SUFFIXES)]
            if not found:
                raise ValueError(f"library {path}: a folder without {', '.join(SUFFIXES)} files")
        elif not path.exists():
            raise ValueError(f"library {path}: no such file or folder")
        elif not path.name.lower().endswith(SUFFIXES):
            raise ValueError(f"library {path}: only {', '.join(SUFFIXES)} files are read")
        else:
            found = [path]
        files |= dict.fromkeys(file.resolve() for file in found)
    if not files:
        raise ValueError("a library needs at least one file or folder (passage_paths)")
    return list(files)


def passages(files: Sequence[Path], counts: LibraryCounts) -> Iterator[str]:
    """The texts, one by one; `counts` is filled meanwhile. ValueError at the end where there was nothing."""
    for file in files:
        counts.num_files += 1
        rows = _parquet_rows(file) if file.name.lower().endswith(".parquet") else _json_rows(file)
        for row in rows:
            counts.num_rows += 1
            if row is None:
                counts.num_broken += 1
            elif text := text_of(row):
                yield text
            else:
                counts.num_without_text += 1
    if counts.num_passages:
        return
    names = ", ".join(map(str, files[:3])) + (", …" if len(files) > 3 else "")
    if not counts.num_rows:
        raise ValueError(f"library {names}: no lines at all")
    raise ValueError(
        f"library {names}: no text in any of {counts.num_rows} lines ({counts.num_broken} of them broken); "
        f"each line is an object with the key {TEXT!r}, or with other values to join"
    )


def check_has_text(paths: Sequence[str | Path]) -> None:
    """Read up to the first text; ValueError where there is none."""
    next(passages(library_files(paths), LibraryCounts()), None)


def text_of(row: dict[str, Any]) -> str:
    """The key `text` where it holds a text, else all values, joined by spaces."""
    text = row.get(TEXT)
    if isinstance(text, str) and text.strip():
        return text.strip()
    return " ".join(filter(None, (_words(value) for value in row.values()))).strip()


def _words(value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return " ".join(filter(None, map(_words, value)))
    return "" if value is None else str(value)


def _json_rows(file: Path) -> Iterator[dict[str, Any] | None]:
    """None for a broken line. Empty lines are none."""
    with gzip.open(file) if file.suffix.lower() == ".gz" else file.open("rb") as lines:
        try:
            for line in lines:
                if line.strip():
                    yield _json_row(line)
        except (EOFError, gzip.BadGzipFile) as error:
            raise ValueError(f"library {file}: the compressed file breaks off ({error}); copy it again") from None


def _json_row(line: bytes) -> dict[str, Any] | None:
    try:
        text = line.decode("utf-8-sig")
        row = json.loads(text)
        if "\\u" in text:
            json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is no character
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _parquet_rows(file: Path) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"library {file}: no whole Parquet file ({error}); copy it again") from None
    with table:
        for batch in table.iter_batches(ROWS_AT_ONCE):
            yield from batch.to_pylist()
