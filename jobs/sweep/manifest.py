"""`sweep.json`: what a sweep consists of, for whoever executes it, asks for its state or looks at it.

Given the commands; gives a file in the sweep's folder with, for each, its name, task, model, data set, values by label,
folder, what it needs and what it takes of the machine. Nobody has to read a name to know what a run is.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from raylign.jobs.run.folder import write_atomically
from raylign.jobs.sweep.commands import SweepRun

MANIFEST = "sweep.json"
VERSION = 1


@dataclass(frozen=True)
class Resources:
    """What a command takes of a machine while it runs, by its config."""

    cores: int = 1
    gpus: int = 0
    memory_bytes: int = 0
    """0: not known."""
    has_cluster: bool = False
    """Whether it starts or joins a Ray cluster, and so reads `cluster.num_cpus`."""
    address: str = "local"
    """Of the cluster that it joins; local: this machine."""


@dataclass(frozen=True)
class Prepared:
    """One command with what it takes."""

    run: SweepRun
    resources: Resources


def write_manifest(folder: Path, name: str, prepared: Sequence[Prepared]) -> Path:
    """All of it, or the file as it was."""
    lines = [
        {
            "name": one.run.name,
            "task": one.run.task,
            "model": one.run.model,
            "data": one.run.data,
            "values": dict(one.run.values),
            "folder": one.run.folder.name,
            "needs": one.run.needs,
            "starts_from": one.run.starts_from,
            "follows": one.run.follows,
            "follow_up": one.run.follow_up,
            "resources": asdict(one.resources),
            "words": list(one.run.words),
            "command": f"raylign {shlex.join(one.run.words)}",
        }
        for one in prepared
    ]
    path = folder / MANIFEST
    text = json.dumps({"version": VERSION, "name": name, "runs": lines}, indent=2, ensure_ascii=False)
    write_atomically(path, text + "\n")
    return path


def read_manifest(folder: Path) -> list[Prepared]:
    """The commands of a prepared sweep; an error that says what to do where there are none."""
    path = folder / MANIFEST
    again = "run `raylign sweep prep` with the sweep's file (--config …); runs that are done stay as they are"
    if not path.is_file():
        raise ValueError(f"{folder} has no {MANIFEST}: {again}")
    try:
        found = json.loads(path.read_text("utf-8"))
        version = found.get("version") if isinstance(found, dict) else None
        if version != VERSION:
            raise ValueError(f"it is of version {version}, and this raylign reads version {VERSION}")
        return [_prepared(folder, line) for line in found["runs"]]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        why = f"{error!r}" if isinstance(error, LookupError | TypeError | AttributeError) else str(error)
        raise ValueError(f"{path} cannot be used ({why}): {again}") from None


def _prepared(folder: Path, line: Mapping[str, Any]) -> Prepared:
    place = folder / line["folder"]
    words = list(line["words"])
    words[words.index("--folder") + 1] = str(place)  # the sweep may have been moved since
    run = SweepRun(
        line["name"],
        tuple(words),
        place,
        line["task"],
        line["model"],
        line["data"],
        line["values"],
        line["starts_from"],
        line["follows"],
        line["follow_up"],
    )
    return Prepared(run, Resources(**line["resources"]))
