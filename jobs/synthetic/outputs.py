"""What a finished job leaves: the selected rows, all rows, data for imitation, what was left out, a summary.

Given scored rows and a selection; gives in the folder

    selected/           `datasets` folder: train = the selected rows in order, test = the given test set
    synthetic.parquet   every scored row with its lineage
    sft/                `datasets` folder: prompt and response, teacher = replies that agreed, own = right answers of
                        the base model
    dropped.jsonl       every row that was left out, with the stage and the reason
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylign.jobs.data.dropped import Dropped
from raylign.jobs.run.folder import write_atomically
from raylign.jobs.synthetic.prompts import Demo
from raylign.jobs.synthetic.rows import Row
from raylign.jobs.synthetic.score import scored_rows
from raylign.jobs.synthetic.selection import Selection
from raylign.rewards.tasks.task import Task

if TYPE_CHECKING:
    import datasets

SELECTED, SFT, PARQUET, DROPPED = "selected", "sft", "synthetic.parquet", "dropped.jsonl"


def record_of(row: Row, task: Task) -> dict[str, Any]:
    """The columns of a scored row."""
    (scored,) = scored_rows([row])
    return {
        "row_id": row.row_id,
        "input": row.input,
        "output": row.label,
        "prompt": task.prompt(row.input),
        "stage": row.stage,
        "parent": row.parent,
        "passage": row.passage,
        "demos": list(row.demos),
        "votes": len(row.targets),
        "votes_read": row.num_read,
        "votes_asked": row.num_votes,
        "k": scored.num_right,
        "L": scored.num_answers,
        "score": scored.score,
        "verdicts": list(row.verdicts),
        "all": list(row.targets),
        "all_lengths": [len(target) for target in row.targets],
    }


def test_record(number: int, row: Demo, task: Task) -> dict[str, Any]:
    """The same columns, empty where a test row has nothing."""
    return {
        "row_id": f"test-{number:04d}",
        "input": row.input,
        "output": row.output,
        "prompt": task.prompt(row.input),
        "stage": "test",
        "demos": [],
        "verdicts": [],
        "all": [row.output],
        "all_lengths": [len(row.output)],
    }


def write_data(folder: Path, rows: Sequence[Row], selection: Selection, test: Sequence[Demo], task: Task) -> None:
    """The three data sets."""
    records = {row.row_id: record_of(row, task) for row in rows}
    by_id = {row.row_id: row for row in rows}
    selected = [records[row_id] for row_id in selection.row_ids]
    splits = {"train": _dataset(selected, _row_columns())}
    if test:
        tests = [test_record(number, row, task) for number, row in enumerate(test)]
        splits["test"] = _dataset(tests, _row_columns())
    _save(folder / SELECTED, splits)
    _save_parquet(folder / PARQUET, _dataset(list(records.values()), _row_columns()))
    chosen = [by_id[row_id] for row_id in dict.fromkeys(selection.row_ids)]
    imitation = {
        "teacher": [_pair(task, row, text) for row in chosen for text in dict.fromkeys(row.targets)],
        "own": [_pair(task, row, text) for row in chosen for text in row.right_answers],
    }
    _save(folder / SFT, {name: _dataset(pairs, _pair_columns()) for name, pairs in imitation.items()})


def write_dropped(folder: Path, dropped: Sequence[Dropped]) -> None:
    """In the order of the stages."""
    lines = (json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in dropped)
    write_atomically(folder / DROPPED, "".join(lines))


def _pair(task: Task, row: Row, response: str) -> dict[str, Any]:
    return {"row_id": row.row_id, "prompt": task.prompt(row.input), "response": response}


def _dataset(records: Sequence[Mapping[str, Any]], columns: Mapping[str, Any]) -> datasets.Dataset:
    """With a fingerprint of the content: equal rows make equal files."""
    import datasets

    features = datasets.Features(dict(columns))
    by_column = {name: [_whole(record.get(name)) for record in records] for name in columns}
    table = datasets.Dataset.from_dict(by_column, features=features)
    digest = hashlib.blake2b(json.dumps(list(records), default=str).encode(), digest_size=8).hexdigest()
    return datasets.Dataset(table.data, info=datasets.DatasetInfo(features=features), fingerprint=digest)


def _row_columns() -> dict[str, Any]:
    from datasets import List, Value

    texts = dict.fromkeys(("row_id", "input", "output", "prompt", "stage", "parent"), Value("string"))
    numbers = dict.fromkeys(("passage", "votes", "votes_read", "votes_asked", "k", "L"), Value("int64"))
    lists = {
        "demos": List(Value("int64")),
        "verdicts": List(Value("bool")),
        "all": List(Value("string")),
        "all_lengths": List(Value("int64")),
    }
    return texts | numbers | {"score": Value("float64")} | lists


def _pair_columns() -> dict[str, Any]:
    from datasets import Value

    return dict.fromkeys(("row_id", "prompt", "response"), Value("string"))


def _whole(value: Any) -> Any:
    """Half a surrogate pair becomes its escape: a column holds whole characters."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return [_whole(each) for each in value] if isinstance(value, list) else value


def _save_parquet(path: Path, table: datasets.Dataset) -> None:
    import pyarrow.parquet

    temporary = path.with_name(f".tmp-{path.name}")
    pyarrow.parquet.write_table(table.data.table, temporary)
    temporary.replace(path)


def _save(path: Path, splits: Mapping[str, datasets.Dataset]) -> None:
    """Whole or not there."""
    import datasets

    temporary = path.with_name(f".tmp-{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    datasets.disable_progress_bars()
    try:
        datasets.DatasetDict(splits).save_to_disk(str(temporary))
    finally:
        datasets.enable_progress_bars()
    shutil.rmtree(path, ignore_errors=True)
    temporary.replace(path)
