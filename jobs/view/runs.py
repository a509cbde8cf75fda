"""Training runs as rows of a table: what each is, how far it is, what it found.

Given the folders; gives one `RunRow` each, with the numbers of evaluations and comparisons of its model. What a run is
stands in its config.yaml and in the sweep.json above it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raylign.jobs.report.results import result_numbers
from raylign.jobs.view.files import read_config, read_last_lines, read_object
from raylign.jobs.view.folders import Found

RESULT_OF_KIND = {"evaluation": "evaluation.json", "comparison": "comparison.json", "data": "summary.json"}
NUMBERS = {
    "duration (s)": ("seconds",),
    "validation loss": ("loss",),
    "reward accuracy": ("reward_accuracy",),
    "margin": ("reward_margin",),
    "mean reward": ("reward_mean", "*/reward_mean", "*/mean_score_new"),
    "accuracy": ("accuracy", "*/accuracy"),
    "win rate": ("*/win_rate", "*/judge_win_rate"),
}
"""Column: the first of these numbers that a run has; `*/`: of whatever followed it."""
LOWER_IS_BETTER = ("validation loss", "duration (s)")
NOT_PARAMETERS = ("name", "folder", "seed", "resume", "cluster", "trackers")
LONGEST_PARAMETER = 40


@dataclass
class RunRow:
    """One training run."""

    path: Path
    name: str
    tag: str
    """The sweep's name, or the folder that the run lies in."""
    task: str
    model: str
    data: str
    algorithm: str
    seed: int | None
    state: str
    parameters: dict[str, Any]
    """Swept ones by label; of runs outside a sweep, what differs between those of a folder."""
    numbers: dict[str, float]
    """Every number of its own and of what followed it, by name."""
    config: Mapping[str, Any] = field(default_factory=dict)

    def column(self, name: str) -> float | None:
        """A number of the table."""
        for key in NUMBERS[name]:
            if not key.startswith("*/"):
                if key in self.numbers:
                    return self.numbers[key]
                continue
            for each, value in self.numbers.items():
                if "/" in each and each.endswith(key[1:]):
                    return value
        return None


def run_rows(found: Sequence[Found]) -> list[RunRow]:
    """In the order of the folders."""
    sweeps = {each.path: read_object(each.path / "sweep.json") or {} for each in found if each.kind == "sweep"}
    places = {path: lines for path, sweep in sweeps.items() for lines in [_lines_by_folder(path, sweep)]}
    rows = [row for each in found if each.kind == "run" for row in _row(each.path, sweeps, places)]
    _add_what_followed(rows, found, places)
    _add_differences(rows)
    return rows


def _lines_by_folder(path: Path, sweep: Mapping[str, Any]) -> dict[Path, Mapping[str, Any]]:
    """Of a sweep.json, whatever version it is of: only what has the keys that are read here."""
    lines = sweep.get("runs")
    found = [line for line in lines if isinstance(line, dict)] if isinstance(lines, list) else []
    return {path / str(line["folder"]): line for line in found if "folder" in line and "name" in line}


def _row(
    path: Path, sweeps: Mapping[Path, Mapping[str, Any]], places: Mapping[Path, Mapping[Path, Mapping[str, Any]]]
) -> Iterator[RunRow]:
    config = read_config(path / "config.yaml")
    if config is None:  # made a moment ago, or half-deleted: there is nothing to say of it yet
        return
    line = places.get(path.parent, {}).get(path, {})
    summary = read_object(path / "summary.json")
    numbers = {name: each.value for name, each in result_numbers(summary or {}).items()}
    tail = [] if summary is not None and summary.get("evaluation") else read_last_lines(path / "metrics.jsonl")
    numbers |= _of_metrics(tail)
    model, data, algorithm = (_section(config, key) for key in ("model", "data", "algorithm"))
    values = line.get("values")
    yield RunRow(
        path=path,
        name=str(config.get("name", path.name)),
        tag=str(sweeps.get(path.parent, {}).get("name") or path.parent.name),
        task=str(line.get("task") or algorithm.get("name", "")),
        model=str(line.get("model") or model.get("path", "")),
        data=str(line.get("data") or data.get("source", "")),
        algorithm=str(algorithm.get("name", "")),
        seed=config["seed"] if isinstance(config.get("seed"), int) else None,
        state=_state(summary, tail, config),
        parameters=dict(values) if isinstance(values, dict) else {},
        numbers=numbers,
        config=config,
    )


def _of_metrics(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of a run that goes on: its last evaluation, and the time so far."""
    numbers: dict[str, float] = {}
    for line in lines:
        for key, value in line.items():
            is_wanted = key.startswith("evaluation/") or key in ("seconds", "step")
            if is_wanted and isinstance(value, int | float) and math.isfinite(value):
                numbers["num_steps" if key == "step" else key.removeprefix("evaluation/")] = float(value)
    return numbers


def _state(summary: Mapping[str, Any] | None, tail: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> str:
    if summary is not None:
        return "finished" if summary.get("finished", True) else "stopped"
    step = tail[-1].get("step", 0) if tail else 0
    total = config.get("num_steps") if config.get("num_epochs") is None else None
    return f"step {step}" + (f" of {total}" if total else "")


def _add_what_followed(
    rows: Sequence[RunRow], found: Sequence[Found], places: Mapping[Path, Mapping[Path, Mapping[str, Any]]]
) -> None:
    """Evaluations and comparisons whose sweep.json says which run they follow, or whose model lies in a run."""
    by_path = {row.path: row for row in rows}
    for each in found:
        if each.kind not in RESULT_OF_KIND:
            continue
        result = read_object(each.path / RESULT_OF_KIND[each.kind])
        if result is None:
            continue
        line = places.get(each.path.parent, {}).get(each.path)
        if line is not None:
            names = {str(one["name"]): place for place, one in places[each.path.parent].items()}
            row = by_path.get(names.get(str(line.get("follows")), Path()))
            label = str(line.get("follow_up"))
        else:
            row, label = by_path.get(_run_of_model(each.path, result, by_path)), each.path.name
        if row is not None:
            row.numbers |= {f"{label}/{name}": number.value for name, number in result_numbers(result).items()}


def _run_of_model(path: Path, result: Mapping[str, Any], runs: Mapping[Path, RunRow]) -> Path:
    """The run that a result's model comes from: the folder that holds it."""
    config = read_config(path / "config.yaml") or {}
    new = _section(config, "new")
    model = result.get("model") or config.get("model") or new.get("model")
    if not isinstance(model, str):
        return Path()
    place = Path(model).absolute()
    return next((each for each in (place, *place.parents) if each in runs), Path())


def _add_differences(rows: Sequence[RunRow]) -> None:
    """Runs of one folder that are no sweep's: the keys of their configs that differ are their parameters."""
    of_tag: dict[Path, list[RunRow]] = {}
    for row in rows:
        if not row.parameters:
            of_tag.setdefault(row.path.parent, []).append(row)
    for together in of_tag.values():
        if len(together) < 2:
            continue
        leaves = [dict(_leaves(row.config, "")) for row in together]
        for key in dict.fromkeys(key for each in leaves for key in each):
            values = [each.get(key) for each in leaves]
            if any(value != values[0] for value in values[1:]) and all(_is_parameter(value) for value in values):
                for row, value in zip(together, values, strict=True):
                    if value is not None:
                        row.parameters[key] = value


def _leaves(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, child in value.items():
            if prefix or key not in NOT_PARAMETERS:
                yield from _leaves(child, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _is_parameter(value: Any) -> bool:
    return isinstance(value, bool | int | float | None) or (isinstance(value, str) and len(value) <= LONGEST_PARAMETER)


def _section(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key)
    return value if isinstance(value, Mapping) else {}
