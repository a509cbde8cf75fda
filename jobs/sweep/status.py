"""What of a sweep is done, under way, left out or failed, from its files.

Given the prepared commands; gives a line for each, and how many there are of a kind. Writes nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from raylign.jobs.report.results import is_finished
from raylign.jobs.run.folder import read_metrics
from raylign.jobs.run.output_folder import is_held
from raylign.jobs.sweep.execute import PROGRESS
from raylign.jobs.sweep.manifest import Prepared


def status_lines(folder: Path, prepared: Sequence[Prepared]) -> Iterator[str]:
    """In the order of the commands."""
    states = states_of(folder, prepared)
    for one in prepared:
        yield f"{one.run.name}: {states[one.run.name]}"
    counts = Counter(state.split(",")[0].split(";")[0].split(" with ")[0] for state in states.values())
    yield ", ".join(f"{count} {kind}" for kind, count in counts.items())


def states_of(folder: Path, prepared: Sequence[Prepared]) -> dict[str, str]:
    """By name: done, running, broken off, waiting, or what the last execution said."""
    said, is_executed = _said(folder), is_held(folder)
    states = {}
    for one in prepared:
        state = said.get(one.run.name, "")
        if is_finished(one.run.folder) and not state.startswith("failed"):
            states[one.run.name] = "done"
        elif state in ("running", "stopped"):
            steps, goes_on = _steps(one.run.folder), state == "running" and is_executed
            states[one.run.name] = f"running{steps}" if goes_on else f"broken off{steps}, execute goes on with it"
        elif state.startswith(("failed", "left out")):
            states[one.run.name] = state
        else:
            states[one.run.name] = f"waiting{f', needs {one.run.needs}' if one.run.needs else ''}"
    return states


def _steps(folder: Path) -> str:
    lines = read_metrics(folder)
    return f", step {lines[-1].get('step', 0)}" if lines else ""


def _said(folder: Path) -> Mapping[str, str]:
    try:
        found = json.loads((folder / PROGRESS).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
