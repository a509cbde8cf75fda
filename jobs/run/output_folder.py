"""The rules of a folder that a job writes: never overwritten, gone on with only by the same job, one writer at a time.

Given a path and the resolved config as YAML; raises where the job may not write there, and holds the folder while it
does. Runs, drawing jobs and the plan of both ask here.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, TextIO

from raylign.rewards.addresses import without_secrets
from raylign.rollout.data.yaml_text import yaml_value

PLACE = ("resume", "folder", "cluster")
"""Config sections that say where a job lives, not what it computes."""


def check_output_folder(
    path: Path,
    config_yaml: str,
    resume: bool,
    may_change: Collection[str] = (),
    may_grow: Collection[str] = (),
    completed: Callable[[str], str] = str,
) -> None:
    """Raise unless the job may write to `path`. `may_change`: keys that `resume` allows to differ, besides `PLACE`;
    `may_grow`: numbers that may only rise; `completed`: a config of before with the defaults of keys that are new."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; choose another folder")
    if not path.is_dir() or not any(path.iterdir()):
        return
    if not resume:
        raise ValueError(f"{path} exists and is not empty: go on with it by --resume, or choose a new name")
    refuse_links_out(path)
    before = path / "config.yaml"
    if not before.is_file():
        raise ValueError(f"{path} has no config.yaml, so it is not a folder to resume; choose a new name")
    differences = config_differences(
        completed(before.read_text("utf-8")), config_yaml, may_change, may_grow, str(before)
    )
    if differences:
        lines = "\n".join(f"  {difference}" for difference in differences)
        allowed = [f"only {', '.join(sorted(keys))} may {what} on resume" for keys, what in
                   ((may_change, "change"), (may_grow, "grow")) if keys]  # fmt: skip
        raise ValueError(
            f"the config differs from the one that {path} was started with:\n{lines}\n"
            f"undo the changes, or choose a new name ({'; '.join(allowed)})"
        )


def refuse_links_out(path: Path) -> None:
    """Raise where something in the folder is a link to a place outside it: going on would write and delete there. The
    folder itself may be a link."""
    inside = path.resolve()
    for root, folders, files in os.walk(path):
        for place in (Path(root, name) for name in (*folders, *files)):
            if place.is_symlink() and not place.resolve().is_relative_to(inside):
                raise ValueError(
                    f"{place} is a link to {place.readlink()}, out of the folder: what is written or removed there "
                    "would be changed elsewhere. Put the files themselves in its place; to use another disk, let "
                    f"{path} itself be a link"
                )


def check_can_write(path: Path) -> None:
    """Raise unless a file can be made where the job will write; the folder itself is made only by the job."""
    place = path.absolute()
    while not place.is_dir():
        if place.is_symlink():
            raise ValueError(
                f"{place} is a link to {place.readlink()}, which is not there; remove it or choose another"
            )
        if place.exists():
            raise ValueError(f"{path} cannot be made: {place} is a file; choose another folder")
        place = place.parent
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".tmp-can-write-") as file:
            file.write(b"raylign")
            file.flush()
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written ({error.strerror or error} in {place}): choose another, or make it writable"
        ) from None


def config_differences(
    old_yaml: str,
    new_yaml: str,
    may_change: Collection[str] = (),
    may_grow: Collection[str] = (),
    name: str = "config.yaml",
) -> list[str]:
    """`key: old -> new` for every key that may not change when a job is resumed. `name`: where the old one stands."""
    old, new = (dict(_leaves(yaml_value(text, name), "")) for text, name in ((old_yaml, name), (new_yaml, "config")))
    differences = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key, "absent"), new.get(key, "absent")
        grows = key in may_grow and isinstance(before, int) and isinstance(after, int) and after > before
        may_differ = any(f"{key}.".startswith(f"{one}.") for one in (*PLACE, *may_change))
        if before != after and not grows and not may_differ:
            differences.append(without_secrets(f"{key}: {before} -> {after}"))
    return differences


def hold(path: Path) -> TextIO:
    """An open file that keeps other processes out of the folder until it is closed, or the process ends."""
    lock = (path / ".lock").open("a")
    for is_last in (False, False, True):  # `is_held` has it for a moment
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if is_last:
                lock.close()
                raise ValueError(
                    f"another process is writing the folder {path}; wait for it or choose a new name"
                ) from None
            time.sleep(0.05)
    return lock


def is_held(path: Path) -> bool:
    """Whether a process writes the folder now. The lock is only tried, and let go at once."""
    try:
        with (path / ".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _leaves(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Nested mappings as dotted keys; an empty mapping stays, so that `{}` and `null` differ."""
    if not isinstance(value, dict) or not value:
        yield prefix, value
        return
    for key, child in value.items():
        yield from _leaves(child, f"{prefix}.{key}" if prefix else str(key))
