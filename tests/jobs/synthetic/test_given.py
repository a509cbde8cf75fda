"""What a user gives: demonstrations and a test set, in both spellings, never cut into characters, overlaps counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raylign.jobs.synthetic.config import SynthesizeConfig
from raylign.jobs.synthetic.given import Given, read_given

ROWS = [{"input": f"{number} + 1", "output": f"#### {number + 1}"} for number in range(6)]


def save(folder: Path, splits: dict[str, list[dict[str, Any]]]) -> Path:
    import datasets

    datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in splits.items()}).save_to_disk(
        str(folder)
    )
    return folder


def given(**keys: Any) -> Given:
    return read_given(SynthesizeConfig.model_validate({"task_instruction": "Add.", **keys}))


@pytest.mark.parametrize("names", [("input", "output"), ("Input", "Output")])
def test_demonstrations_come_from_train_and_the_test_set_from_test(names: tuple[str, str], tmp_path: Path) -> None:
    rows = [dict(zip(names, row.values(), strict=True)) for row in ROWS]
    read = given(dataset_path=save(tmp_path / "data", {"train": rows[:4], "test": rows[4:]}), num_demos=3)
    assert [demo.input for demo in read.demos] == ["0 + 1", "1 + 1", "2 + 1"]
    assert [(row.input, row.output) for row in read.test] == [("4 + 1", "#### 5"), ("5 + 1", "#### 6")]
    assert read.warnings == ()


def test_fifty_demonstrations_are_fifty_samples_and_not_fifty_characters(tmp_path: Path) -> None:
    path = tmp_path / "demos.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS * 20))
    read = given(demo_examples=path, num_demos=50)
    assert len(read.demos) == 50 and read.demos[0].input == "0 + 1"
    assert given(demo_examples=path, num_demos=0).demos == ()


def test_the_train_split_is_not_read_where_demonstrations_are_given(tmp_path: Path) -> None:
    path = tmp_path / "demos.jsonl"
    path.write_text(json.dumps({"input": "mine", "output": "#### 1"}) + "\n")
    data = save(tmp_path / "data", {"train": ROWS[:2], "test": ROWS[2:]})
    read = given(demo_examples=path, dataset_path=data)
    assert [demo.input for demo in read.demos] == ["mine"] and len(read.test) == 4


def test_a_test_set_that_overlaps_the_demonstrations_is_counted_and_warned_of(tmp_path: Path) -> None:
    repeated = {"input": "0  +  1", "output": "#### 1"}
    read = given(dataset_path=save(tmp_path / "data", {"train": ROWS[:3], "test": [repeated, *ROWS[2:]]}))
    (warning,) = read.warnings
    assert warning.startswith("2 of 5 test rows have the input of a demonstration")


def test_rows_without_a_text_are_counted(tmp_path: Path) -> None:
    empty = [{"input": "", "output": "1"}, {"input": "x", "output": " "}]
    read = given(dataset_path=save(tmp_path / "data", {"train": ROWS[:2] + empty, "test": ROWS[4:]}))
    assert len(read.demos) == 2 and "(train): 2 of 4 rows have no input or no output" in read.warnings[0]


def test_a_data_set_without_its_columns_or_its_format_is_refused(tmp_path: Path) -> None:
    other = save(tmp_path / "other", {"train": [{"question": "1 + 1", "answer": "2"}]})
    with pytest.raises(ValueError, match="its columns are question, answer; Input and Output are needed"):
        given(dataset_path=other)
    with pytest.raises(ValueError, match="no row of train has both input and output"):
        given(dataset_path=save(tmp_path / "empty", {"train": [{"input": "", "output": ""}]}))
    (tmp_path / "plain").mkdir()
    with pytest.raises(ValueError, match="not a folder that `datasets` saved"):
        given(dataset_path=tmp_path / "plain")
    with pytest.raises(ValueError, match="not found"):
        given(demo_examples=tmp_path / "absent.jsonl")
    half = tmp_path / "half.parquet"
    half.write_bytes(b"PAR1 half of it")
    with pytest.raises(ValueError, match="not a readable Parquet file"):
        given(demo_examples=half)
