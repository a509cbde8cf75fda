"""The viewer's table of runs: columns, filters, means over seeds, heat maps.

Given rows of runs; gives plain dictionaries, one for each line, ready for a table, a CSV or a heat map.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from raylign.jobs.view.runs import LOWER_IS_BETTER, NUMBERS, RunRow

Aggregate = Literal["every run", "mean over seeds", "best over seeds"]
AGGREGATES: tuple[Aggregate, ...] = ("every run", "mean over seeds", "best over seeds")
FIRST_WORDS = ("run", "state")
LAST_WORDS = ("tag", "task", "model", "data", "algorithm", "seed")
Line = dict[str, Any]


def table_lines(rows: Sequence[RunRow]) -> list[Line]:
    """Run, parameters, the numbers that any run has, and then what runs have in common."""
    labels = list(dict.fromkeys(label for row in rows for label in row.parameters))
    lines = []
    for row in rows:
        line: Line = dict(zip(FIRST_WORDS, (row.name, row.state), strict=True))
        line |= {label: row.parameters.get(label) for label in labels}
        line |= {name: row.column(name) for name in NUMBERS}
        last = (row.tag, row.task, row.model, row.data, row.algorithm, row.seed)
        lines.append(line | dict(zip(LAST_WORDS, last, strict=True)))
    empty = [name for name in NUMBERS if all(line[name] is None for line in lines)]
    return [{key: value for key, value in line.items() if key not in empty} for line in lines]


def filtered(lines: Sequence[Line], wanted: Mapping[str, Collection[Any]]) -> list[Line]:
    """Lines whose cells are among the wanted ones; a column without any wanted cell filters nothing."""
    return [line for line in lines if all(not cells or line.get(key) in cells for key, cells in wanted.items())]


def filter_choices(lines: Sequence[Line], most: int = 30) -> dict[str, list[Any]]:
    """Columns of words and parameters in which lines differ, with their cells."""
    numbers = set(NUMBERS)
    columns = [column for column in (lines[0] if lines else ()) if column not in numbers and column != "run"]
    choices = {}
    for column in columns:
        cells = list(dict.fromkeys(line[column] for line in lines if _hashable(line.get(column))))
        if 1 < len(cells) <= most:
            choices[column] = sorted(cells, key=lambda cell: (cell is None, isinstance(cell, str), str(cell).zfill(12)))
    return choices


def aggregated(rows: Sequence[RunRow], lines: Sequence[Line], how: Aggregate) -> list[Line]:
    """Runs that are the same but for the seed as one line; best: the highest, of losses and durations the lowest."""
    if how == "every run":
        return list(lines)
    groups: dict[tuple[Any, ...], list[Line]] = {}
    seeds = seed_labels(rows)
    for row, line in zip(rows, lines, strict=True):
        groups.setdefault(identity(row, seeds), []).append(line)
    return [_one_line(group, how) for group in groups.values()]


def identity(row: RunRow, seeds: Collection[str]) -> tuple[Any, ...]:
    """What runs have in common that differ in the seed alone: by their sweep, else their name."""
    values = tuple((label, str(value)) for label, value in row.parameters.items() if label not in seeds)
    is_of_sweep = row.task != row.algorithm or bool(row.parameters)
    return (row.tag, row.task, row.model, row.data, values) if is_of_sweep else (row.tag, row.name)


def seed_labels(rows: Sequence[RunRow]) -> set[str]:
    """Parameters that are the seed under whatever label: they vary, and are the seed in every run that has them."""
    labels = {label for row in rows for label in row.parameters}
    having = {label: [row for row in rows if label in row.parameters] for label in labels}
    return {
        label
        for label, those in having.items()
        if all(row.parameters[label] == row.seed for row in those) and len({row.seed for row in those}) > 1
    }


def _one_line(group: Sequence[Line], how: Aggregate) -> Line:
    line: Line = {}
    for column in group[0]:
        cells = [each[column] for each in group]
        if column in NUMBERS:
            numbers = [cell for cell in cells if cell is not None]
            line[column] = _combined(column, numbers, how) if numbers else None
        else:
            line[column] = cells[0] if all(cell == cells[0] for cell in cells) else None
    name = group[0].get("run")
    return line | {"run": name if line.get("run") is None else line["run"], "runs": len(group)}


def _combined(column: str, numbers: Sequence[float], how: Aggregate) -> float:
    if how == "mean over seeds":
        return math.fsum(numbers) / len(numbers)
    return min(numbers) if column in LOWER_IS_BETTER else max(numbers)


@dataclass(frozen=True)
class HeatMap:
    """Means of a number at each point of two parameters."""

    across: list[Any]
    down: list[Any]
    cells: list[list[float | None]]
    """One list for each value of `down`; None where there is no run."""
    counts: list[list[int]]


def heat_map(rows: Sequence[RunRow], across: str, down: str, number: str, unstretch: bool = False) -> HeatMap:
    """`unstretch`: durations times the share of rows that stay as they are, since epochs are counted in those."""
    points: dict[tuple[Any, Any], list[float]] = {}
    for row in rows:
        value = row.column(number) if number in NUMBERS else row.numbers.get(number)
        if across in row.parameters and down in row.parameters and value is not None:
            if unstretch and number == "duration (s)":
                value *= plain_share(row)
            points.setdefault((row.parameters[across], row.parameters[down]), []).append(value)
    columns, lines = (sorted({point[place] for point in points}, key=_order) for place in (0, 1))
    found = [[points.get((column, line), []) for column in columns] for line in lines]
    cells = [[math.fsum(each) / len(each) if each else None for each in line] for line in found]
    return HeatMap(columns, lines, cells, [[len(each) for each in line] for line in found])


def plain_share(row: RunRow) -> float:
    """The share of rows that no route of the algorithm takes, where epochs are counted in those; 1 elsewhere."""
    algorithm = row.config.get("algorithm")
    if row.config.get("num_epochs") is None or not isinstance(algorithm, Mapping):
        return 1.0
    shares = [part["share"] for part in algorithm.values() if isinstance(part, Mapping) and "share" in part]
    return 1.0 - math.fsum(share for share in shares if isinstance(share, int | float))


def swept(rows: Sequence[RunRow]) -> list[str]:
    """Parameters with several values; those with most first."""
    labels = dict.fromkeys(label for row in rows for label in row.parameters)
    values = {label: {str(row.parameters[label]) for row in rows if label in row.parameters} for label in labels}
    return sorted((label for label in labels if len(values[label]) > 1), key=lambda label: -len(values[label]))


def _order(value: Any) -> tuple[bool, Any]:
    is_text = isinstance(value, str) or value is None
    return is_text, str(value) if is_text else value


def _hashable(value: Any) -> bool:
    return isinstance(value, str | int | float | bool | None)
