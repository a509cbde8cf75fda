"""Checkpoints: complete or not there.

Given a folder and a callback that writes the files; gives `step-000010/` folders, each a Hugging Face model
folder (it loads in transformers and vLLM as it is) with the resumable state in `state/` and the run's place
in `complete.json`. A folder gets its name only when all of it is on disk; anything else is a leftover.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raylign.jobs.run.folder import write_atomically

STATE = "state"
"""Subfolder for what only a resumed run needs: optimizer, scheduler, random states."""
SPARE_BYTES = 1 << 20
"""Less free than this after a failed write is a full disk."""
_TEMPORARY = ".tmp-"
_REPLACED = ".replaced-"
_OTHERS = "go on with the version that wrote the checkpoint, or move it out of the run folder"
_NO_LONGER_KEPT = ("prompt_ordinal", "num_metrics_lines")
"""Keys that older checkpoints have in `complete.json`; nothing read them."""


@dataclass(frozen=True)
class CheckpointRecord:
    """Where the run stood: what `complete.json` holds."""

    step: int
    """Steps finished; the next one has this number plus 1."""
    seed: int
    data_fingerprint: str
    """A resumed run must read the same data."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of raylign and the libraries that wrote it."""
    seconds: float = 0.0
    """Time that the run had taken, earlier starts included."""
    tokens_generated: int = 0
    """Tokens that the engines had generated, likewise."""
    log_position: dict[str, Any] | None = None
    """What of the experience log is trained (`LogPosition`); None for runs without rollouts."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint. `path` is the model folder itself."""

    path: Path
    record: CheckpointRecord

    @property
    def state_path(self) -> Path:
        """The resumable state."""
        return self.path / STATE


class DiskFullError(ValueError):
    """A checkpoint could not be written for lack of space; the message has path, free and needed bytes."""


class CheckpointStore:
    """The checkpoints of one run. Only the run that owns it calls `clean` and `save`."""

    def __init__(self, folder: Path | str, keep_last: int = 2) -> None:
        assert keep_last >= 1, "the newest checkpoint is never deleted"
        self.folder = Path(folder)
        self.keep_last = keep_last
        self.saved: Callable[[], None] = lambda: None
        """Called after every save."""
        self.held: set[Path] = set()
        """Being read by somebody: removed by a later save."""

    def complete(self) -> list[Checkpoint]:
        """All complete checkpoints, oldest step first."""
        found = [_read(path) for path in self.folder.glob("step-*")]
        return sorted((c for c in found if c is not None), key=lambda checkpoint: checkpoint.record.step)

    def latest(self) -> Checkpoint | None:
        """The complete checkpoint of the highest step; None where there is none."""
        checkpoints = self.complete()
        return checkpoints[-1] if checkpoints else None

    def clean(self) -> list[Path]:
        """Remove what a crash left half-written; called once, before the run goes on."""
        for replaced in self.folder.glob(f"{_REPLACED}*"):
            place = self.folder / replaced.name.removeprefix(_REPLACED)
            if not place.exists():  # the crash came between the two renames of `save`
                replaced.rename(place)
        leftovers = [*self.folder.glob(f"{_TEMPORARY}*"), *self.folder.glob(f"{_REPLACED}*")]
        leftovers += [path for path in self.folder.glob("step-*") if _read(path) is None]
        for leftover in leftovers:
            shutil.rmtree(leftover)
        return leftovers

    def save(self, record: CheckpointRecord, write: Callable[[Path], None]) -> Checkpoint:
        """Let `write` fill a folder, put it in place in one move, then remove old ones.

        If `write` raises, nothing has changed.
        """
        name = f"step-{record.step:06d}"
        path, temporary, replaced = (self.folder / (prefix + name) for prefix in ("", _TEMPORARY, _REPLACED))
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            write(temporary)
            write_atomically(temporary / "complete.json", json.dumps(dataclasses.asdict(record), indent=2))
            _flush_to_disk(temporary)
        except BaseException as error:  # Ctrl-C too: the half-written folder goes, the error stays
            full = self._disk_full(temporary) if isinstance(error, Exception) else None
            shutil.rmtree(temporary, ignore_errors=True)
            if full is not None:
                raise full from error
            raise
        if path.exists():
            path.rename(replaced)
        temporary.rename(path)
        _flush_folder(self.folder)
        shutil.rmtree(replaced, ignore_errors=True)
        self._remove_old(keep=path)
        self.saved()
        return Checkpoint(path, record)

    def _disk_full(self, half_written: Path) -> DiskFullError | None:
        """Set where too little is free for the rest of a checkpoint; writers themselves say anything but that."""
        free_bytes, written_bytes = shutil.disk_usage(self.folder).free, _size(half_written)
        before = self.latest()
        needed_bytes = max(written_bytes, _size(before.path) if before is not None else 0) + SPARE_BYTES
        if free_bytes + written_bytes >= needed_bytes and free_bytes >= SPARE_BYTES:
            return None
        at_least = "" if before is not None else "at least "
        return DiskFullError(
            f"{half_written.parent.absolute()}: the disk is full: {free_bytes + written_bytes:,} bytes are free and a "
            f"checkpoint takes {at_least}{needed_bytes:,}; make room and go on by --resume"
        )

    def _remove_old(self, keep: Path) -> None:
        for checkpoint in self.complete()[: -self.keep_last]:
            if checkpoint.path != keep and checkpoint.path not in self.held:
                # renamed first: a crash half-way must not leave a folder that looks complete
                doomed = checkpoint.path.rename(self.folder / f"{_TEMPORARY}{checkpoint.path.name}")
                shutil.rmtree(doomed)


def check_model_is_there(folder: Path) -> None:
    """Raise where a learner on another node has written its weights elsewhere."""
    if not any(folder.glob("*.safetensors")):
        raise RuntimeError(
            f"the learner saved its weights, but {folder.absolute()} has none: on several nodes the run folder must "
            "lie on a disk that all of them see (folder)"
        )


def _size(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())


def library_versions() -> dict[str, str]:
    """Of what writes a checkpoint."""
    return {name: importlib.metadata.version(name) for name in ("raylign", "torch", "transformers")}


def _read(path: Path) -> Checkpoint | None:
    try:
        kept = json.loads((path / "complete.json").read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path / 'complete.json'}: cannot be read: {error}; {_OTHERS}") from None
    try:
        record = CheckpointRecord(**{key: kept[key] for key in kept.keys() - set(_NO_LONGER_KEPT)})
        if not isinstance(record.step, int):
            raise TypeError(f"step is {str(record.step)[:80]!r}")
    except (TypeError, AttributeError) as error:  # never taken for a leftover, which would be removed
        raise ValueError(f"{path / 'complete.json'}: not what this version writes ({error}); {_OTHERS}") from None
    return Checkpoint(path, record)


def _flush_to_disk(folder: Path) -> None:
    for root, _, files in os.walk(folder):
        for file in files:
            descriptor = os.open(os.path.join(root, file), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        _flush_folder(Path(root))


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checkpoint_of(run_folder: Path, summary: Mapping[str, Any]) -> str:
    """The one that summary.json names: inside the run folder; older summaries say it from the folder of the start."""
    named = str(summary["checkpoint"])
    inside = run_folder / named
    return str(inside) if inside.is_dir() else named


def model_folder(model: str) -> str:
    """A run folder stands for its newest checkpoint; everything else is taken as it is."""
    checkpoints = Path(model) / "checkpoints"
    if checkpoints.is_dir():
        latest = CheckpointStore(checkpoints).latest()
        if latest is None:
            raise ValueError(f"{model} is a run folder without a complete checkpoint")
        return str(latest.path)
    return model
