"""Files read once for as long as they stay as they are, whoever writes them meanwhile.

Given a path and what makes something of its text; gives that, from memory while the file's time and size are the same.
A file that is not there, was deleted meanwhile or is half-written gives None: the next look finds it whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from raylign.rewards.addresses import without_secrets

T = TypeVar("T")

_known: dict[tuple[str, str], tuple[tuple[int, int], Any]] = {}
TAIL_BYTES = 256 * 1024
"""Of a metrics file: enough for the last evaluation of a run that goes on."""


def read_as(path: Path, what: str, parse: Callable[[Path], T]) -> T | None:
    """`what`: a name for `parse`, since a file may be read in several ways."""
    key = (str(path), what)
    try:
        stat = path.stat()
        mark = (stat.st_mtime_ns, stat.st_size)
        before = _known.get(key)
        if before is not None and before[0] == mark:
            found: T | None = before[1]
            return found
        found = parse(path)
    except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError, RecursionError):
        _known.pop(key, None)
        return None
    _known[key] = (mark, found)
    return found


def read_object(path: Path) -> dict[str, Any] | None:
    """A JSON file that holds an object."""
    return read_as(path, "object", _object)


def read_config(path: Path) -> dict[str, Any] | None:
    """A config as plain values."""
    return read_as(path, "config", _config)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file; lines that are none, such as a half-written last one, are left out."""
    return read_as(path, "lines", lambda place: _objects(place.read_bytes())) or []


def read_last_lines(path: Path) -> list[dict[str, Any]]:
    """Those at its end, without reading the rest."""
    return read_as(path, "last lines", _last_objects) or []


def _object(path: Path) -> dict[str, Any] | None:
    found = json.loads(path.read_text("utf-8", "replace"))
    return found if isinstance(found, dict) else None


def _config(path: Path) -> dict[str, Any] | None:
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a tenth of the time where libyaml is there
    # an older version wrote addresses with their passwords
    found = yaml.load(without_secrets(path.read_text("utf-8", "replace")), Loader=loader)
    return found if isinstance(found, dict) else None


def _last_objects(path: Path) -> list[dict[str, Any]]:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - TAIL_BYTES))
        content = file.read()
    return _objects(content if size <= TAIL_BYTES else content.partition(b"\n")[2])


def _objects(content: bytes) -> list[dict[str, Any]]:
    found = []
    for line in content.split(b"\n"):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            found.append(value)
    return found
