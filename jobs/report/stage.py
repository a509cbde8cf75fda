"""One run folder, read for its report: all that can be read, and a line for each thing that cannot.

Given the folder, a running or damaged one or somebody else's; gives a `Stage`. Nothing in it makes reading fail.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raylign.jobs.run.folder import read_metrics
from raylign.rewards.addresses import without_secrets
from raylign.rollout.data.yaml_text import yaml_value

MAX_PROBLEMS = 20
"""Of one run, told one by one."""


@dataclass
class Problems:
    """What of a run cannot be shown."""

    told: list[str] = field(default_factory=list)
    num_more: int = 0

    def add(self, place: str, error: Exception | str) -> None:
        """`place`: file and line, below the run folder."""
        if len(self.told) == MAX_PROBLEMS:
            self.num_more += 1
            return
        known = isinstance(error, str | ValueError | OSError)  # with words of their own; others only have a name
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        one_line = " ".join(reason.removeprefix(f"{place}: ").split())
        self.told.append(f"{place}: {without_secrets(one_line)[:300]}")

    def lines(self) -> list[str]:
        """One for each, and how many more there are."""
        return self.told + ([f"and {self.num_more} more"] if self.num_more else [])


@dataclass(frozen=True)
class Stage:
    """One run folder."""

    path: Path
    lines: list[dict[str, Any]]
    config_yaml: str
    config: dict[str, Any]
    """Its values; empty where there are none that can be read."""
    summary: dict[str, Any] | None
    """None while the run goes on."""
    problems: Problems

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def state(self) -> str:
        """`finished`, or how far it is."""
        if self.summary is not None and self.summary.get("finished", True):
            return "finished"
        going, total = "in progress" if self.summary is None else "stopped", self.config.get("num_steps")
        return f"{going}, step {self.num_steps}" + (f" of {total}" if total else "")

    @property
    def num_steps(self) -> int:
        return int(max((line.get("step", 0) for line in self.lines), default=0))


def read_stages(folder: Path) -> list[Stage]:
    """The folder itself if it is a run, else the runs directly in it, in the order in which they were started."""
    if (folder / "metrics.jsonl").is_file():
        return [_read_stage(folder)]
    # the lock file is made once and never written again, so its time is the start of the run
    paths = [metrics.parent for metrics in folder.glob("*/metrics.jsonl") if metrics.is_file()]
    return [_read_stage(path) for path in sorted(paths, key=lambda path: (_started(path), path.name))]


def read_summary(path: Path, problems: Problems) -> dict[str, Any] | None:
    """None where there is none, or none that can be read."""
    text = _text(path, "summary.json", problems)
    if not text:
        return None
    try:
        summary = json.loads(text)
    except (ValueError, RecursionError) as error:
        problems.add("summary.json", error)
        return None
    if not isinstance(summary, dict):
        problems.add("summary.json", f"holds a {type(summary).__name__} in the place of names and values")
        return None
    return summary


def _read_stage(path: Path) -> Stage:
    problems = Problems()
    damaged: list[tuple[int, str]] = []
    try:
        lines = read_metrics(path, damaged)
    except OSError as error:
        lines = []
        problems.add("metrics.jsonl", error)
    for number, reason in damaged:
        problems.add(f"metrics.jsonl:{number}", reason)
    config_yaml = without_secrets(_text(path, "config.yaml", problems))  # of a version that took them in addresses
    return Stage(path, lines, config_yaml, _config(config_yaml, problems), read_summary(path, problems), problems)


def _config(config_yaml: str, problems: Problems) -> dict[str, Any]:
    try:
        config = yaml_value(config_yaml, "config.yaml")
    except ValueError as error:
        problems.add("config.yaml", error)
        return {}
    return config if isinstance(config, dict) else {}


def _text(path: Path, name: str, problems: Problems) -> str:
    """Of a file in the run folder; empty where it is not there."""
    try:
        return (path / name).read_text("utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        problems.add(name, f"is no UTF-8 text ({error.reason} at byte {error.start:,})")
    except OSError as error:
        problems.add(name, error)
    return ""


def _started(path: Path) -> float:
    marker = path / ".lock"
    return (marker if marker.exists() else path / "metrics.jsonl").stat().st_mtime
