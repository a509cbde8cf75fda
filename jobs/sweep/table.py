"""The table of a sweep: `sweep.md` to read, `sweep.csv` to compute with.

Given the commands; gives a row for each training run: steps, seconds, its last evaluation, and the numbers of what
followed it under `<follow-up>/<metric>`, all with their intervals.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from raylign.jobs.report.results import Number, read_result, result_numbers
from raylign.jobs.run.folder import write_atomically
from raylign.jobs.sweep.commands import SweepRun

OF_A_RUN = {"num_steps": "steps", "seconds": "seconds"}
"""Of a training run's own summary; the rest of its columns are its last evaluation."""
COUNTS = ("num_", "failed_", "seconds", "failure_share")
"""Numbers of a follow-up that say how, not what: in the CSV only."""


def write_tables(folder: Path, runs: Sequence[SweepRun]) -> Path:
    """Both files; gives the one to read."""
    found = results(runs)
    write_atomically(folder / "sweep.csv", as_csv(runs, found))
    write_atomically(folder / "sweep.md", as_markdown(found))
    return folder / "sweep.md"


def results(runs: Sequence[SweepRun]) -> dict[str, dict[str, Number]]:
    """By training run that has a result, its numbers and those of what followed it."""
    rows: dict[str, dict[str, Number]] = {}
    for run in runs:
        result = read_result(run.folder)
        if result is None:
            continue
        if run.follows is None:
            own = {OF_A_RUN[key]: number for key, number in result_numbers(result).items() if key in OF_A_RUN}
            evaluation = result.get("evaluation")
            found = result_numbers(evaluation) if isinstance(evaluation, Mapping) else {}
            rows[run.name] = own | {key: number for key, number in found.items() if key not in ("step", *OF_A_RUN)}
        elif run.follows in rows:
            rows[run.follows] |= {f"{run.follow_up}/{key}": number for key, number in result_numbers(result).items()}
    return rows


def as_markdown(found: Mapping[str, Mapping[str, Number]]) -> str:
    """`0.62 [0.55, 0.69]`: the value with its interval."""
    columns = [column for column in _columns(found) if not _is_count(column)]
    lines = ["| run | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in found.items():
        lines.append(f"| {name} | " + " | ".join(_cell(row.get(column)) for column in columns) + " |")
    return "\n".join(lines) + "\n"


def as_csv(runs: Sequence[SweepRun], found: Mapping[str, Mapping[str, Number]]) -> str:
    """Task, model, data set and values by label first; an interval's ends in columns of their own."""
    trained = [run for run in runs if run.name in found]
    labels = list(dict.fromkeys(label for run in trained for label in run.values))
    columns = _columns(found)
    with_ends = {column for row in found.values() for column, number in row.items() if number.low is not None}
    names = [name for column in columns for name in (column, *_ends(column, with_ends))]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "task", "model", "data", *(f"values.{label}" for label in labels), *names])
    for run in trained:
        cells: list[object] = []
        for column in columns:
            number = found[run.name].get(column)
            cells.append("" if number is None else number.value)
            if column in with_ends:
                cells += ["", ""] if number is None or number.low is None else [number.low, number.high]
        values = [run.values.get(label, "") for label in labels]
        writer.writerow([run.name, run.task, run.model, run.data, *values, *cells])
    return text.getvalue()


def _columns(found: Mapping[str, Mapping[str, Number]]) -> list[str]:
    return list(dict.fromkeys(column for row in found.values() for column in row))


def _ends(column: str, with_ends: set[str]) -> list[str]:
    return [f"{column}_low", f"{column}_high"] if column in with_ends else []


def _is_count(column: str) -> bool:
    return "/" in column and column.rpartition("/")[2].startswith(COUNTS)


def _cell(number: Number | None) -> str:
    if number is None:
        return ""
    interval = "" if number.low is None or number.high is None else f" [{number.low:.4g}, {number.high:.4g}]"
    return f"{number.value:.4g}{interval}"
