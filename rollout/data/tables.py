"""Tables of text: CSV with commas, semicolons, tabs or bars.

Given the open text of a table; gives its rows, values as written (`007` is not 7), and notes on what was found. Columns
that programs add by themselves (pandas' row numbers, an empty one after the last delimiter) are left out with a note.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

DELIMITERS = (",", "\t", ";", "|")
NAMES = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}
NUM_PROBED = 20
"""Lines that the delimiter is told by."""
INDEX_NAMES = ("", "Unnamed: 0", "__index_level_0__")
"""What pandas calls its row numbers in CSV, in CSV that was read and written again, and in Parquet."""


def read_table(file: TextIO, path: Path, delimiter: str | None) -> tuple[list[dict[str, str]], list[str]]:
    """Rows and notes."""
    csv.field_size_limit(sys.maxsize)
    notes: list[str] = []
    if delimiter is None:
        delimiter = find_delimiter(list(islice(file, NUM_PROBED)), is_tsv=".tsv" in path.name.lower())
        file.seek(0)
        if delimiter != ",":
            notes.append(f"{path.name}: a table with {NAMES[delimiter]}s between its columns")
    # A table's own line ends are none of ours to judge: \r\n and \r end a row, inside quotes they are text.
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        cells = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.line_num}: broken CSV: {error}") from error
    kept, left_out = _columns(header, [row for _, row in cells], path, delimiter)
    notes += left_out
    return list(_rows(header, kept, cells, path)), notes


def find_delimiter(lines: list[str], is_tsv: bool = False) -> str:
    """The one that cuts the header and the rows after it into equally many columns, more than one."""
    for delimiter in ("\t", *DELIMITERS) if is_tsv else DELIMITERS:
        try:
            counts = [len(row) for row in csv.reader(lines, delimiter=delimiter) if row]
        except csv.Error:
            continue
        # the last one may go on after the probed lines, inside quotes
        if counts and counts[0] > 1 and set(counts[:-1] if len(lines) == NUM_PROBED else counts) == {counts[0]}:
            return delimiter
    return "\t" if is_tsv else ","


def drop_index_columns(rows: list[dict[str, Any]], name: str) -> list[str]:
    """Take pandas' row numbers out of rows that came with types; gives notes."""
    found = [column for column in INDEX_NAMES if rows and isinstance(rows[0].get(column), int)]
    for row in rows if found else []:
        for column in found:
            row.pop(column, None)
    return [f"{name}: column {column!r} left out: row numbers that pandas added" for column in found]


def _columns(header: list[str], rows: list[list[str]], path: Path, delimiter: str) -> tuple[list[int], list[str]]:
    """Places of the columns that count, and notes on the others."""
    kept = list(range(len(header)))
    notes: list[str] = []
    last = len(header) - 1
    if len(header) > 1 and not header[-1] and all(len(row) <= last or not row[last] for row in rows):
        kept.pop()
        notes.append(f"{path.name}: the last column left out: it has no name and no values")
    if header and header[0] in INDEX_NAMES and len(kept) > 1 and all(row[0].isdecimal() for row in rows):
        kept.pop(0)
        notes.append(f"{path.name}: column {header[0]!r} left out: row numbers that pandas added")
    names = [header[place] for place in kept]
    if len(set(names)) != len(names) or not all(names):
        other = next((NAMES[mark] for mark in DELIMITERS if mark != delimiter and mark in "".join(header)), None)
        advice = f"; are its columns cut by {other}s? Set data.delimiter" if other else ""
        raise ValueError(f"{path}:1: the header needs different, non-empty column names, not {header}{advice}")
    return kept, notes


def _rows(
    header: list[str], kept: list[int], cells: list[tuple[int, list[str]]], path: Path
) -> Iterator[dict[str, str]]:
    for line, row in cells:
        beyond = row[len(header) :]
        if len(row) < (kept[-1] + 1 if kept else 0) or any(beyond):
            raise ValueError(
                f"{path}:{line}: {len(row)} values for {len(header)} columns {header} (another delimiter than it was "
                "read with is set by data.delimiter)"
            )
        yield {header[place]: row[place] for place in kept}
