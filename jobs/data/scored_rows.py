"""Scored rows in the format that they came in: the user's columns as they were, the new ones after them.

Given rows by split; gives `scored.jsonl` (of several splits `scored_<split>.jsonl`), and where the source is a saved
folder, a hub's data set, Parquet, CSV or JSON, the same rows as that: `scored/` or `scored.parquet` and so on.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raylign.jobs.run.folder import write_atomically
from raylign.rollout.data.files import find_files, is_glob, suffix_of
from raylign.rollout.data.sources import Row, is_hugging_face_name, is_saved_by_datasets


@dataclass(frozen=True)
class ScoredRow:
    """One row of the result."""

    origin: int
    """Place of the user's row in its split."""
    row: Row
    new: Mapping[str, Any]


def check_new_columns(row: Row, new: Mapping[str, Any], source: str) -> None:
    """Raise where the data has a column of that name: the user's columns stay as they are."""
    if taken := [name for name in new if name in row]:
        raise ValueError(
            f"{source} has {'a column' if len(taken) == 1 else 'columns'} {', '.join(taken)} already, which would be "
            "overwritten: give the new ones another name (--suffix _new)"
        )


def kind_of(source: str, split: str) -> str:
    """`datasets`, or the ending of its files."""
    path = Path(source).expanduser()
    if is_hugging_face_name(source) or (path.is_dir() and is_saved_by_datasets(path)):
        return "datasets"
    file = (
        path if path.is_file() else find_files(path.absolute(), split)[0] if path.is_dir() or is_glob(source) else path
    )
    return (suffix_of(file.name) or ".jsonl").removesuffix(".gz")


def write_scored(
    folder: Path, source: str, by_split: Mapping[str, Sequence[ScoredRow]], is_split: bool, delimiter: str | None
) -> list[Path]:
    """Everything, each file whole or not there. `is_split`: the source has splits, and they are written back."""
    kind = kind_of(source, next(iter(by_split)))
    written = []
    for split, rows in by_split.items():
        path = folder / (f"scored_{split}.jsonl" if is_split else "scored.jsonl")
        write_atomically(path, "".join(_json_line(row.row | dict(row.new)) for row in rows))
        written.append(path)
    if kind == "datasets":
        written.append(_write_saved(folder / "scored", source, by_split, is_split))
    elif kind != ".jsonl" or is_split:
        for split, rows in by_split.items():
            path = folder / "scored" / f"{split}{kind}" if is_split else folder / f"scored{kind}"
            path.parent.mkdir(exist_ok=True)
            _write_file(path, kind, rows, delimiter)
            written.append(path)
    return written


def _json_line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, default=str) + "\n"


def _write_file(path: Path, kind: str, rows: Sequence[ScoredRow], delimiter: str | None) -> None:
    whole = [row.row | dict(row.new) for row in rows]
    if kind == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet

        temporary = path.with_name(f".tmp-{path.name}")
        pyarrow.parquet.write_table(pa.Table.from_pylist(whole), temporary)
        temporary.replace(path)
    elif kind in (".csv", ".tsv"):
        text = io.StringIO()
        columns = list(dict.fromkeys(column for row in whole for column in row))
        writer = csv.DictWriter(
            text, columns, delimiter=delimiter or ("\t" if kind == ".tsv" else ","), lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(whole)
        write_atomically(path, text.getvalue())
    elif kind == ".json":
        write_atomically(path, json.dumps(whole, ensure_ascii=False, indent=1, default=str) + "\n")
    else:
        write_atomically(path, "".join(map(_json_line, whole)))


def _write_saved(path: Path, source: str, by_split: Mapping[str, Sequence[ScoredRow]], is_split: bool) -> Path:
    """A saved folder keeps the types of its columns: rows are chosen from it, and columns are added."""
    import datasets

    datasets.disable_progress_bars()
    try:
        place = Path(source).expanduser()
        loaded = datasets.load_from_disk(str(place)) if place.is_dir() and is_saved_by_datasets(place) else None
        made = {}
        for split, rows in by_split.items():
            before = loaded[split] if isinstance(loaded, datasets.DatasetDict) else loaded
            made[split] = _with_columns(before, rows)
        result = datasets.DatasetDict(made) if is_split else next(iter(made.values()))
        temporary = path.with_name(f".tmp-{path.name}")
        shutil.rmtree(temporary, ignore_errors=True)
        result.save_to_disk(str(temporary))
    finally:
        datasets.enable_progress_bars()
    shutil.rmtree(path, ignore_errors=True)
    temporary.replace(path)
    return path


def _with_columns(before: Any, rows: Sequence[ScoredRow]) -> Any:
    import datasets

    origins = [row.origin for row in rows]
    if before is None or len(set(origins)) < len(origins):  # a row that holds several pairs is none of them
        return datasets.Dataset.from_list([row.row | dict(row.new) for row in rows])
    chosen = before.select(origins)
    for name in dict.fromkeys(name for row in rows for name in row.new):
        chosen = chosen.add_column(name, [row.new.get(name) for row in rows])
    return chosen
