"""The run folder: everything a run leaves behind, and what it needs to go on.

Given a path and the resolved config; gives a folder that is never overwritten:

    config.yaml     the resolved config          samples/      completions to read, a file for each step
    metrics.jsonl   one line for each step       experience/   every scored group (docs/experience.md)
    summary.json    the end result               checkpoints/  policies to load and state to resume
    report.html     all of it as one page        reference/    log π_ref of rows, where rows are learned from

and what was asked for beside: `evaluation/` with answers to held-out prompts, `selection.parquet`, the trackers' files.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import yaml

MAY_CHANGE_ON_RESUME = ("resume", "folder", "cluster", "checkpoints", "trackers")
"""Config sections that say where a run lives, not what it computes. Besides them `num_steps` may grow."""


class RunFolder:
    """Writes one run. Made by `create`; `read_metrics` and the report need only the path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / "config.yaml"
        self.metrics_path = path / "metrics.jsonl"
        self.summary_path = path / "summary.json"
        self.report_path = path / "report.html"
        self.samples_path = path / "samples"
        self.experience_path = path / "experience"
        self.checkpoints_path = path / "checkpoints"
        self._metrics_file: TextIO | None = None
        self._lock_file: TextIO | None = None

    @classmethod
    def create(cls, path: Path | str, config_yaml: str, resume: bool = False) -> RunFolder:
        """A new folder, or with `resume` an existing one whose config agrees; locked until `close`."""
        run_folder = cls(Path(path))
        if run_folder.path.exists() and not run_folder.path.is_dir():
            raise ValueError(f"{path} is a file, so it cannot be the run folder; choose a new name")
        started_before = run_folder.path.is_dir() and any(run_folder.path.iterdir())
        if started_before and not resume:
            raise ValueError(
                f"the run folder {path} exists and is not empty: go on with it by --resume, or choose a new name"
            )
        if started_before:
            run_folder.check_same_config(config_yaml)
        run_folder.path.mkdir(parents=True, exist_ok=True)
        run_folder._lock()
        write_atomically(run_folder.config_path, config_yaml)
        run_folder.samples_path.mkdir(exist_ok=True)
        run_folder.checkpoints_path.mkdir(exist_ok=True)
        run_folder._metrics_file = run_folder.metrics_path.open("a")
        return run_folder

    def append_metrics(self, metrics: Mapping[str, float | None]) -> None:
        """One line, on disk when this returns. Values that are not finite become null, as JSON has none."""
        assert self._metrics_file is not None, "the run folder is closed"
        line = {key: _json_number(value) for key, value in metrics.items()}
        self._metrics_file.write(json.dumps(line, allow_nan=False) + "\n")
        self._metrics_file.flush()

    def cut_metrics(self, last_step: int) -> int:
        """Move lines after `last_step` (and a line half-written in a crash) to `metrics.cut-N.jsonl`.

        Called on resume: the steps after the checkpoint are done again. Gives the number of lines moved.
        """
        kept: list[str] = []
        cut: list[str] = []
        for line in self.metrics_path.read_text().splitlines():
            metrics = _parsed(line)
            (kept if metrics is not None and metrics.get("step", 0) <= last_step else cut).append(line)
        if not cut:
            return 0
        number = 1 + sum(1 for _ in self.path.glob("metrics.cut-*.jsonl"))
        write_atomically(self.path / f"metrics.cut-{number}.jsonl", "".join(line + "\n" for line in cut))
        write_atomically(self.metrics_path, "".join(line + "\n" for line in kept))
        assert self._metrics_file is not None, "the run folder is closed"
        self._metrics_file.close()
        self._metrics_file = self.metrics_path.open("a")
        return len(cut)

    @property
    def num_metrics_lines(self) -> int:
        """Lines written so far; kept in checkpoints."""
        return len(self.metrics_path.read_text().splitlines())

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """The end result, for people and scripts."""
        write_atomically(self.summary_path, json.dumps(summary, indent=2) + "\n")

    def close(self) -> None:
        """Release the lock; nothing can be appended after it."""
        for file in (self._metrics_file, self._lock_file):
            if file is not None:
                file.close()
        self._metrics_file = self._lock_file = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lock(self) -> None:
        """Held until `close` or the end of the process, however it ends."""
        self._lock_file = (self.path / ".lock").open("a")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise ValueError(
                f"another process is writing the run folder {self.path}; wait for it or choose a new name"
            ) from None

    def check_same_config(self, config_yaml: str) -> None:
        """Raise unless this run may be resumed with the config."""
        if not self.config_path.is_file():
            raise ValueError(f"{self.path} has no config.yaml, so it is not a run folder to resume; choose a new name")
        differences = config_differences(self.config_path.read_text(), config_yaml)
        if differences:
            lines = "\n".join(f"  {difference}" for difference in differences)
            raise ValueError(
                f"the config differs from the one that {self.path} was started with:\n{lines}\n"
                "undo the changes, or choose a new name (only num_steps may grow on resume)"
            )


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """All metric lines of a run folder, of a running one too; a half-written last line is left out."""
    metrics_path = Path(path) / "metrics.jsonl"
    if not metrics_path.is_file():
        return []
    lines = metrics_path.read_text().splitlines()
    return [metrics for line in lines if (metrics := _parsed(line)) is not None]


def config_differences(old_yaml: str, new_yaml: str) -> list[str]:
    """`key: old -> new` for every key that may not change when a run is resumed."""
    old, new = _flat(yaml.safe_load(old_yaml)), _flat(yaml.safe_load(new_yaml))
    differences = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key, "absent"), new.get(key, "absent")
        grows = key == "num_steps" and isinstance(before, int) and isinstance(after, int) and after > before
        if before != after and not grows and key.split(".")[0] not in MAY_CHANGE_ON_RESUME:
            differences.append(f"{key}: {before} -> {after}")
    return differences


def write_atomically(path: Path, text: str) -> None:
    """All of the text or the old file, never half of it."""
    temporary = path.with_name(f".tmp-{path.name}")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys; an empty mapping stays, so that `{}` and `null` differ."""
    return dict(_leaves(value, prefix))


def _leaves(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict) or not value:
        yield prefix, value
        return
    for key, child in value.items():
        yield from _leaves(child, f"{prefix}.{key}" if prefix else str(key))


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        metrics = json.loads(line)
    except json.JSONDecodeError:  # the machine died while the line was written
        return None
    return metrics if isinstance(metrics, dict) else None


def _json_number(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return int(value) if isinstance(value, int) else float(value)
