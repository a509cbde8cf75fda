"""Which folders there are to look at, and what each is: by the files in it, never by its name.

Given the folders that the user named; gives every folder below them that a command of ours wrote.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["run", "evaluation", "comparison", "data", "sweep"]

KIND_OF_FILE: tuple[tuple[str, Kind], ...] = (
    ("sweep.json", "sweep"),
    ("metrics.jsonl", "run"),
    ("comparison.json", "comparison"),
    ("evaluation.json", "evaluation"),
    ("draws.jsonl", "data"),
    ("dropped.jsonl", "data"),
    ("summary.json", "data"),
)
"""The first file that is there decides."""
NOT_LOOKED_INTO = {"checkpoints", "experience", "reference", "samples", "evaluation", "trackers"}
"""Parts of a run: thousands of files that are none of ours."""


@dataclass(frozen=True)
class Found:
    """One folder."""

    path: Path
    kind: Kind


def find_folders(roots: Sequence[Path]) -> list[Found]:
    """All of them, each once, in the order of their paths."""
    found = {each.path: each for root in roots for each in _below(root.absolute())}
    return [found[path] for path in sorted(found)]


def _below(folder: Path) -> Iterator[Found]:
    try:
        entries = list(os.scandir(folder))
    except OSError:  # not there, or deleted meanwhile
        return
    names = {entry.name for entry in entries}
    kind = next((kind for file, kind in KIND_OF_FILE if file in names), None)
    if kind is not None:
        yield Found(folder, kind)
    is_run = kind is not None and kind != "sweep"
    for entry in entries:
        if entry.name.startswith(".") or (is_run and entry.name in NOT_LOOKED_INTO):
            continue
        try:
            is_folder = entry.is_dir(follow_symlinks=False)
        except OSError:
            continue
        if is_folder:
            yield from _below(Path(entry.path))
