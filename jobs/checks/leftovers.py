"""What killed runs left in shared memory and temporary folders: found, listed, removed.

Given nothing; gives a line for `doctor`, and for `doctor --clean` the list with sizes before anything is removed.
Folders of ours whose owner is dead go at the next start too (`rollout/owned_folders.py`). What other libraries made for
an engine has no owner's mark: it goes here alone, and only where no process that can be seen uses it.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from raylign.jobs.checks.diagnosis import Diagnosis
from raylign.jobs.checks.machine import GIB
from raylign.rollout.owned_folders import OWNER, PREFIX, in_use, is_held, is_own_file, is_own_folder, temporary_places
from raylign.rollout.weights.buckets import PREFIX as WEIGHTS_PREFIX
from raylign.rollout.weights.buckets import is_orphan

SHARED_MEMORY = Path("/dev/shm")
HOUR_S = 3600
KINDS = {
    WEIGHTS_PREFIX: "weights on their way to engines",
    "raylign-adapter-": "adapters on their way to engines",
    "raylign-engine-": "sockets of engines",
    "raylign-train-": "Ray Train's files of a learner",
    "raylign-warm-": "socket of a warm process",
    PREFIX: "Ray's files of a run",
}
MADE_BEFORE_MARKS = re.compile(r"raylign-((adapter|train|warm)-)?[a-z0-9_]{8}\Z")
"""Such folders had no owner's mark in earlier versions; after an hour without use they are taken for left."""
UNMARKED = {"psm_*": "shared memory of Python's multiprocessing", "sem.mp-*": "semaphore of Python's multiprocessing"}


@dataclass(frozen=True)
class Leftover:
    """One file or folder that nobody uses."""

    path: Path
    what: str
    num_bytes: int
    """Memory or disk that it takes; sparse files take less than their length."""


def find_leftovers(places: list[Path] | None = None, shared_memory: Path = SHARED_MEMORY) -> list[Leftover]:
    """Of this user alone."""
    found = {path: _what(path) for place in places or temporary_places() for path in sorted(place.glob(f"{PREFIX}*"))}
    found = {path: what for path, what in found.items() if what}
    for pattern, what in UNMARKED.items():
        found |= {path: what for path in sorted(shared_memory.glob(pattern)) if is_own_file(path)}
    used = in_use(found)
    return [Leftover(path, what, _size(path)) for path, what in found.items() if path not in used]


def check_leftovers() -> Iterator[Diagnosis]:
    """One line, where there is anything."""
    if found := find_leftovers():
        num_bytes = sum(each.num_bytes for each in found)
        yield Diagnosis(
            "left by dead runs",
            "warn" if num_bytes > GIB else "ok",
            f"{len(found)}, {num_bytes / GIB:.2f} GiB, such as {found[0].path}",
            "nothing uses them: `raylign doctor --clean` lists them all and removes them",
        )


def clean(places: list[Path] | None = None, shared_memory: Path = SHARED_MEMORY) -> int:
    """List, then remove; 1 where something could not be removed."""
    found = find_leftovers(places, shared_memory)
    for each in found:
        print(f"{each.num_bytes / 2**20:10,.1f} MiB  {each.path}  ({each.what})")
    if not found:
        print("nothing is left by dead runs")
        return 0
    failures = []
    still = {each.path for each in find_leftovers(places, shared_memory)}  # a run may have begun meanwhile
    for each in found:
        if each.path in still:
            try:
                _remove(each.path)
            except OSError as error:
                failures.append(f"{each.path}: {error.strerror}")
    num_bytes = sum(each.num_bytes for each in found if not os.path.lexists(each.path))
    print(f"removed {len(found) - len(failures)} of {len(found)}, {num_bytes / 2**20:,.1f} MiB")
    for failure in failures:
        print(f"not removed: {failure}")
    return 1 if failures else 0


def _what(path: Path) -> str:
    """Empty where it is not this user's, its owner lives, or somebody else has chosen such a name."""
    kind = next(what for prefix, what in KINDS.items() if path.name.startswith(prefix))
    if path.name.startswith(WEIGHTS_PREFIX):
        return kind if is_own_file(path) and is_orphan(path) else ""
    if not is_own_folder(path):
        return ""
    if (path / OWNER).is_file():
        return "" if is_held(path) else kind
    is_ours = MADE_BEFORE_MARKS.match(path.name) and (kind != KINDS[PREFIX] or any(path.glob("session_*")))
    with suppress(FileNotFoundError):
        return kind if is_ours and time.time() - path.stat().st_mtime > HOUR_S else ""
    return ""  # gone meanwhile


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    num_bytes = 0
    with suppress(FileNotFoundError):  # its owner's end, or another `clean`, removes it meanwhile
        for file in files:
            num_bytes += file.lstat().st_blocks * 512
    return num_bytes


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
