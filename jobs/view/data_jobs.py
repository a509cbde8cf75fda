"""Data jobs for the viewer: what one kept, what it dropped and why, its scores, where its rows come from.

Given the folder of a job; gives counts, rows and histograms, whichever job wrote it: from summary.json, dropped.jsonl,
JSONL and Parquet files and saved `datasets` folders.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raylign.jobs.view.files import read_as, read_lines, read_object

NOT_ROWS = ("dropped.jsonl", "metrics.jsonl")
LINEAGE = ("stage", "parent", "passage", "demos", "votes", "k", "L", "score")
"""Columns that say where a synthetic row comes from."""
MOST_ROWS = 20_000
"""Of one file; a look, not an analysis."""
NUM_BINS = 30


def facts_of(folder: Path) -> dict[str, Any]:
    """Plain values of the summary."""
    summary = read_object(folder / "summary.json") or {}
    return {key: value for key, value in summary.items() if isinstance(value, str | int | float | bool)}


def dropped_counts(folder: Path) -> list[dict[str, Any]]:
    """Part, reason and count of all that was left out, by the summary; by dropped.jsonl where it says nothing."""
    found = [line for line in _drops(read_object(folder / "summary.json") or {}, "") if line["rows"]]
    if found:
        return found
    reasons = Counter((_part(line), str(line.get("reason", "no reason given"))) for line in dropped_rows(folder))
    return [{"part": part, "reason": reason, "rows": count} for (part, reason), count in reasons.most_common()]


def dropped_rows(folder: Path) -> list[dict[str, Any]]:
    """Those that the job kept with their reasons."""
    return read_lines(folder / "dropped.jsonl")


def row_files(folder: Path) -> dict[str, Path]:
    """What holds rows, by name: saved folders first, then Parquet, then JSONL that is no journal of the job."""
    found = {"rows": folder} if _is_saved(folder) else {}
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return found
    found |= {path.name: path for path in entries if _is_saved(path)}
    found |= {path.name: path for path in entries if path.suffix == ".parquet"}
    lines = (path for path in entries if path.suffix == ".jsonl" and path.name not in NOT_ROWS)
    return found | {path.name: path for path in lines if not read_as(path, "is journal", _is_journal)}


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The first rows of a file, or of a saved folder."""
    if path.is_dir():
        parts = sorted(path.rglob("*.arrow"))
        return [row for part in parts for row in (read_as(part, "rows", _arrow_rows) or [])][:MOST_ROWS]
    if path.suffix == ".parquet":
        return read_as(path, "rows", _parquet_rows) or []
    return read_lines(path)[:MOST_ROWS]


def number_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Columns of numbers, those of scores first."""
    columns = dict.fromkeys(key for row in rows[:200] for key, value in row.items() if _number(value) is not None)
    return sorted(columns, key=lambda name: ("score" not in name, "prob" not in name, "weight" not in name))


def histogram(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> dict[str, Any]:
    """A Plotly figure: columns over the same bins. Values that are no finite numbers are left out."""
    values = {name: [each for row in rows if (each := _number(row.get(name))) is not None] for name in columns}
    every = [value for each in values.values() for value in each]
    if not every:
        return {"data": [], "layout": {}}
    edges = np.histogram_bin_edges(every, NUM_BINS)
    traces = [
        {
            "type": "bar",
            "name": name,
            "x": ((edges[:-1] + edges[1:]) / 2).tolist(),
            "y": np.histogram(each, edges)[0].tolist(),
            "opacity": 0.75 if len(values) > 1 else 1.0,
        }
        for name, each in values.items()
    ]
    axes = {"xaxis": {"title": {"text": "value"}}, "yaxis": {"title": {"text": "rows"}}}
    return {
        "data": traces,
        "layout": {**axes, "barmode": "overlay", "height": 320, "margin": {"l": 60, "r": 20, "t": 20, "b": 40}},
    }


def lineage_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Where a row comes from: from columns of its own, or from one column `lineage`."""
    nested = row.get("lineage")
    found = {key: row[key] for key in LINEAGE if row.get(key) is not None}
    return found | (dict(nested) if isinstance(nested, Mapping) else {})


def _part(line: Mapping[str, Any]) -> str:
    """Which part of the job left the row out: a stage of a synthesis, a split of scored pairs."""
    return str(line.get("stage") or line.get("split") or "")


def _drops(value: Any, part: str) -> Iterator[dict[str, Any]]:
    """Counts by reason, at whatever depth of the summary; where they stand, nothing deeper says the same by parts."""
    if not isinstance(value, Mapping):
        return
    counted = [child for key, child in value.items() if isinstance(child, Mapping) and _says_dropped(key)]
    for child in counted:
        for reason, count in child.items():
            if isinstance(count, int):
                yield {"part": part, "reason": str(reason), "rows": count}
    if not counted:
        for key, child in value.items():
            yield from _drops(child, f"{part}/{key}" if part else str(key))


def _says_dropped(key: str) -> bool:
    return "dropped" in key or "left_out" in key


def _is_journal(path: Path) -> bool:
    """Whether the first line is one that `RowJournal` writes."""
    with path.open("rb") as file:
        first = json.loads(file.readline(1 << 20))
    return isinstance(first, dict) and {"stage", "row", "key"} <= first.keys()


def _is_saved(path: Path) -> bool:
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def _arrow_rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        rows: list[dict[str, Any]] = pa.ipc.open_stream(source).read_all().slice(0, MOST_ROWS).to_pylist()
    return rows


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).slice(0, MOST_ROWS).to_pylist()
    return rows


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
