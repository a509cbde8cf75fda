"""The run folder: everything a run leaves behind, and what it needs to go on.

Given a path and the resolved config; gives a folder that is never overwritten:

    config.yaml     the resolved config          samples/      completions to read, a file for each step
    metrics.jsonl   one line for each step       experience/   every scored group (docs/experience.md)
    summary.json    the end result               checkpoints/  policies to load and state to resume
    report.html     all of it as one page        reference/    log π_ref of rows, where rows are learned from
    run.log         what was said while it went  starts.jsonl  machine, versions, command of each start

and what was asked for beside: `evaluation/` with answers to held-out prompts, `selection.parquet`, the trackers' files.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from raylign.jobs.run.output_folder import check_output_folder, hold

MAY_CHANGE_ON_RESUME = ("checkpoints", "trackers", "rollout.autoscale", "learner.num_ranks")
MAY_GROW_ON_RESUME = ("num_steps",)


class RunFolder:
    """Writes one run. Made by `create`; `read_metrics` and the report need only the path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / "config.yaml"
        self.metrics_path = path / "metrics.jsonl"
        self.summary_path = path / "summary.json"
        self.log_path = path / "run.log"
        self.report_path = path / "report.html"
        self.samples_path = path / "samples"
        self.experience_path = path / "experience"
        self.checkpoints_path = path / "checkpoints"
        self._metrics_file: TextIO | None = None
        self._lock_file: TextIO | None = None

    @classmethod
    def create(
        cls, path: Path | str, config_yaml: str, resume: bool = False, completed: Callable[[str], str] = str
    ) -> RunFolder:
        """A new folder, or with `resume` an existing one whose config agrees; locked until `close`."""
        run_folder = cls(Path(path))
        check_run_folder(run_folder.path, config_yaml, resume, completed)
        run_folder.path.mkdir(parents=True, exist_ok=True)
        run_folder._lock_file = hold(run_folder.path)
        write_atomically(run_folder.config_path, config_yaml)
        run_folder.samples_path.mkdir(exist_ok=True)
        run_folder.checkpoints_path.mkdir(exist_ok=True)
        run_folder._metrics_file = run_folder.metrics_path.open("a", encoding="utf-8")
        return run_folder

    def append_metrics(self, metrics: Mapping[str, float | None]) -> None:
        """One line, on disk when this returns. Values that are not finite become null, as JSON has none."""
        assert self._metrics_file is not None, "the run folder is closed"
        line = {key: _json_number(value) for key, value in metrics.items()}
        with naming(self.metrics_path):
            self._metrics_file.write(json.dumps(line, allow_nan=False) + "\n")
            self._metrics_file.flush()

    def cut_metrics(self, last_step: int) -> int:
        """Move lines after `last_step` (and a line half-written in a crash) to `metrics.cut-N.jsonl`.

        Called on resume: the steps after the checkpoint are done again. Gives the number of lines moved.
        """
        kept: list[str] = []
        cut: list[str] = []
        for line in _lines(self.metrics_path):
            metrics = _parsed(line)
            (kept if metrics is not None and metrics.get("step", 0) <= last_step else cut).append(line)
        if not cut:
            return 0
        number = 1 + sum(1 for _ in self.path.glob("metrics.cut-*.jsonl"))
        write_atomically(self.path / f"metrics.cut-{number}.jsonl", "".join(line + "\n" for line in cut))
        write_atomically(self.metrics_path, "".join(line + "\n" for line in kept))
        assert self._metrics_file is not None, "the run folder is closed"
        self._metrics_file.close()
        self._metrics_file = self.metrics_path.open("a", encoding="utf-8")
        return len(cut)

    def append_log(self, message: str) -> None:
        """A line of `run.log`, with its time. What cannot be written is no reason to end a run."""
        stamp = datetime.now().astimezone().isoformat(timespec="seconds")
        with suppress(OSError), self.log_path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(f"{stamp} {line}\n" for line in message.split("\n"))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """The end result, for people and scripts; its checkpoint is named from the folder, which may be moved."""
        checkpoint = summary.get("checkpoint")
        if checkpoint is not None and Path(checkpoint).is_relative_to(self.path):
            summary = {**summary, "checkpoint": str(Path(checkpoint).relative_to(self.path))}
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


def check_run_folder(path: Path, config_yaml: str, resume: bool, completed: Callable[[str], str] = str) -> None:
    """Raise unless a run with this config may write to `path`."""
    check_output_folder(path, config_yaml, resume, MAY_CHANGE_ON_RESUME, MAY_GROW_ON_RESUME, completed)


def read_metrics(path: Path | str, damaged: list[tuple[int, str]] | None = None) -> list[dict[str, Any]]:
    """All metric lines of a run folder, of a running one too; a half-written last line is left out. `damaged` is given
    the number of every other line that is left out, and why."""
    metrics_path = Path(path) / "metrics.jsonl"
    if not metrics_path.is_file():
        return []
    found = []
    lines = _read_text(metrics_path).split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found.append(_metrics_of(line))
        except ValueError as error:
            if damaged is not None and number < len(lines):
                damaged.append((number, str(error)))
    return found


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An error of the file system while a file is written names the file: a full disk is told without one."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_atomically(path: Path, text: str) -> None:
    """All of the text or the old file, never half of it."""
    temporary = path.with_name(f".tmp-{path.name}")
    temporary.unlink(missing_ok=True)  # of a crash; a link in its place would lead the text elsewhere
    # Half a surrogate pair in somebody's message is written as its escape, which JSON reads: no text ends a run.
    with naming(path), temporary.open("x", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _read_text(path: Path) -> str:
    """As `rollout/data/json_lines.py` reads it; here the last line may be half-written, and cut inside a character."""
    return path.read_text("utf-8-sig", errors="replace")


def _lines(path: Path) -> list[str]:
    return [line for line in _read_text(path).split("\n") if line.strip()]


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        return _metrics_of(line)
    except ValueError:  # the machine died while the line was written
        return None


def _metrics_of(line: str) -> dict[str, Any]:
    """What `append_metrics` writes: names and finite numbers, or null."""
    try:
        metrics = json.loads(line)
        if not isinstance(metrics, dict):
            raise ValueError(f"a {type(metrics).__name__} in the place of names and numbers")
        for key, value in metrics.items():
            if value is not None and not (isinstance(value, int | float) and math.isfinite(float(value))):
                raise ValueError(f"{key[:80]} is {str(value)[:80]!r}, which is no number")
        if metrics.get("step", 0) is None:
            raise ValueError("step is null")
    except (RecursionError, OverflowError) as error:
        raise ValueError(f"cannot be read ({error})") from None
    return metrics


def _json_number(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return int(value) if isinstance(value, int) else float(value)
