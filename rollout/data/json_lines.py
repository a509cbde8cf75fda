"""The one reader of JSON lines: data, samples, answers, draws and metrics.

Given a file or its text; gives each line's number and value. A line ends at a newline and nowhere else (U+2028 and its
like are ordinary characters inside a string), the text is UTF-8 with or without a byte-order mark, and empty lines
count but hold nothing. What cannot be read, encoded or written again is a ValueError with file, line and place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

MAX_DEPTH = 100
"""Lists and objects inside each other; writers and checks of rows recurse, and Python ends at about a thousand."""
SHOWN = 80
"""Characters of a line in an error."""
_HALF_ESCAPE = re.compile(r"\\u[dD][89abAB]\w\w(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]\w\w)\\u[dD][c-fC-F]\w\w")
_BRACKETS = re.compile(r"[\[\]{}]|\"(?:[^\"\\]|\\.)*\"")
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """All lines of a file."""
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            yield from parse_json_lines(file, path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error})") from error


def parse_json_lines(lines: Iterable[str], path: Path) -> Iterator[tuple[int, Any]]:
    """Lines as they come from a file that was opened with `newline="\\n"`."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, parse_json(line.rstrip("\n"), str(path), number)


def parse_json(text: str, name: str, line: int = 1) -> Any:
    """One JSON value that can be encoded and written again; it begins on `line` of what `name` names."""
    if text.count("[") + text.count("{") > MAX_DEPTH and (depth := _depth(text)) > MAX_DEPTH:
        raise ValueError(f"{name}:{line}: lists and objects are nested {depth} deep; at most {MAX_DEPTH} are read")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        shown = text.strip().split("\n")[0][:SHOWN]
        where = f"{name}:{line + error.lineno - 1}"
        raise ValueError(f"{where}: not JSON: {error.msg} at column {error.colno}: {shown!r}") from error
    except ValueError as error:  # an integer of more digits than Python converts
        raise ValueError(f"{name}:{line}: a number in it cannot be read ({error}); write it as a text") from error
    if found := _HALF_ESCAPE.search(text) or _SURROGATE.search(text):
        check_encodable(value, f"{name}:{line + text.count(chr(10), 0, found.start())}")
    return value


def check_encodable(value: Any, where: str, column: str = "") -> None:
    """Raise where a text holds half of a surrogate pair: no tokenizer and no file takes it."""
    if isinstance(value, str):
        if found := _SURROGATE.search(value):
            inside = f"column '{column}'" if column else "a text"
            raise ValueError(
                f"{where}: {inside} holds \\u{ord(found.group()):04x}, half of a surrogate pair, no character: "
                "an emoji was cut in two where the file was written; cut texts by characters, or remove it"
            )
    elif isinstance(value, dict):
        for key, inner in value.items():
            shown = str(key).encode("utf-8", "backslashreplace").decode()
            inside = f"{column}.{shown}" if column else shown
            check_encodable(str(key), where, inside)
            check_encodable(inner, where, inside)
    elif isinstance(value, list):
        for inner in value:
            check_encodable(inner, where, column)


def _depth(text: str) -> int:
    """How deep brackets stand inside each other; those inside strings do not count."""
    depth = deepest = 0
    for bracket in _BRACKETS.findall(text):
        if bracket in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif bracket in "]}":
            depth -= 1
    return deepest
