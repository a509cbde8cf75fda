"""JSON files: one object a line, or one list of objects; whichever of the two stands in the file is told by its text.

Given the open text of a .jsonl or .json file; gives its rows and notes. What is neither (pretty-printed or concatenated
objects, a comma after each line, a table by columns) is a ValueError that says what it is and what to do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TextIO

from raylign.rollout.data.json_lines import parse_json, parse_json_lines

Row = dict[str, Any]


def read_jsonl(file: TextIO, path: Path) -> list[Row]:
    """One object a line."""
    rows: list[Row] = []
    try:
        for number, row in parse_json_lines(file, path):
            if not isinstance(row, dict):
                advice = " (a whole list is a .json file: rename it)" if isinstance(row, list) and number == 1 else ""
                raise ValueError(
                    f"{path}:{number}: a row must be a JSON object, not {type(row).__name__}{advice}; one object a line"
                )
            rows.append(row)
    except UnicodeError:
        raise
    except ValueError as error:
        if rows and "not JSON: Extra data" not in str(error):
            raise
        file.seek(0)
        raise ValueError(f"{error}{_what_it_is(file.read(1 << 20))}") from error
    return rows


def read_json(file: TextIO, path: Path) -> tuple[list[Row], list[str]]:
    """One list of objects; or JSON lines under this name, as `datasets` and pandas write them."""
    text = file.read()
    first = next((line for line in text.split("\n") if line.strip()), "")
    if first.lstrip().startswith("{") and _is_object(first):
        file.seek(0)
        rows = read_jsonl(file, path)
        if len(rows) > 1:
            return rows, [f"{path.name}: JSON lines, read as such (their usual ending is .jsonl)"]
    found = parse_json(text, str(path))
    if isinstance(found, list) and all(isinstance(row, dict) for row in found):
        return found, []
    raise ValueError(f"{path}: a .json file must hold one list of objects, or one object a line; {_found(found)}")


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _found(value: Any) -> str:
    """What a JSON file holds instead of rows, and what to do."""
    if isinstance(value, list):
        return f"this is a list with a {next(type(row).__name__ for row in value if not isinstance(row, dict))} in it"
    if not isinstance(value, dict):
        return f"this is a {type(value).__name__}"
    lists = [key for key, rows in value.items() if isinstance(rows, list) and rows and isinstance(rows[0], dict)]
    if lists:
        return f"this is an object with lists in it; write the list {lists[0]!r} alone"
    if value and all(isinstance(column, (dict, list)) for column in value.values()):
        return "this is a table by columns; pandas writes rows with to_json(orient='records', lines=True)"
    return "this is a single object"


def _what_it_is(text: str) -> str:
    """A text that is no JSON lines, in words; empty where nothing is recognised."""
    decoder, start = json.JSONDecoder(), len(text) - len(text.lstrip())
    try:
        _, end = decoder.raw_decode(text, start)
    except (ValueError, RecursionError):
        return ""
    rest = text[end:].lstrip(" \t\r")
    if "\n" in text[start:end]:
        what = "a list over several lines: name it .json" if text[start] == "[" else "an object over several lines"
        return f"; this file holds {what} (pretty-printed); JSON lines have one object a line: jq -c . writes them"
    if rest.startswith(","):
        return "; this file has a comma after each object; JSON lines have none"
    if rest and not rest.startswith("\n"):
        return "; this file has several objects in a line; JSON lines have one: jq -c . writes them"
    return ""
