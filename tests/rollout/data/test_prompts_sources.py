"""Reading rows: every kind of file, folder and generator, and what is wrong with them.

Given files written on the spot; shows the rows, or the message with file and line.
"""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest

from raylign.rollout.data.config import DataConfig
from raylign.rollout.data.loading import load_mapped_rows
from raylign.rollout.data.sources import read_rows

ROWS = [{"question": "é?", "answer": 1.5}, {"question": "b", "answer": 2.0}]


def test_jsonl_json_and_parquet_give_the_same_rows(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    (tmp_path / "a.jsonl").write_text(lines + "\n", encoding="utf-8")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.jsonl.gz", "a.json", "a.parquet"):
        assert read_rows(str(tmp_path / name)) == ROWS, name


def test_csv_values_stay_as_written(tmp_path: Path) -> None:
    text = '\ufeffquestion,answer\n"a, ""b""\nc",007\nd,2.0\n'
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode()))
    expected = [{"question": 'a, "b"\nc', "answer": "007"}, {"question": "d", "answer": "2.0"}]
    assert read_rows(str(tmp_path / "a.csv")) == read_rows(str(tmp_path / "a.csv.gz")) == expected


def test_a_datasets_folder_is_read_by_split(tmp_path: Path) -> None:
    import datasets

    whole = datasets.Dataset.from_list(ROWS)
    whole.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": whole, "test": whole.select([1])}).save_to_disk(str(tmp_path / "two"))
    assert read_rows(str(tmp_path / "one")) == ROWS
    assert read_rows(str(tmp_path / "two"), split="test") == ROWS[1:]
    with pytest.raises(ValueError, match=r"no split 'tests'; there are train, test; did you mean 'test'"):
        read_rows(str(tmp_path / "two"), split="tests")


def test_a_missing_file_is_shown_with_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for source in ("nothing.jsonl", "./nothing", f"{tmp_path}/nothing"):
        with pytest.raises(ValueError, match=f"not found: {tmp_path}/nothing"):
            read_rows(source)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", b"", "the file is empty"),
        ("blank.jsonl", b"\n\n", "no rows"),
        ("header.csv", b"a,b\n", "no rows"),
        ("line.jsonl", b'{"a": 1}\n\n{"a": 1,\n', r"line.jsonl:3: not JSON: .*'{\"a\": 1,'"),
        ("list.jsonl", b'{"a": 1}\n[1]\n', r"list.jsonl:2: a row must be a JSON object, not list"),
        ("object.json", b'{"a": 1}', "one list of objects"),
        ("half.json", b'[{"a": 1},\n', r"half.json:2: not JSON"),
        ("cells.csv", b"a,b\n1,2\n3\n", r"cells.csv:3: 1 values for 2 columns"),
        ("twice.csv", b"a,a\n1,2\n", r"twice.csv:1: the header"),
        ("quote.csv", b'a,b\n"1,2\n', r"quote.csv:2: broken CSV"),
        ("latin.csv", "a\nÄ\n".encode("latin-1"), "not UTF-8"),
        ("plain.jsonl.gz", b'{"a": 1}\n', "broken gzip"),
        ("cut.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 99, mtime=0)[:-9], "broken gzip"),
        ("text.parquet", b"hello", "not a readable Parquet file"),
        ("text.xlsx", b"hello", "known endings: .jsonl"),
    ],
)
def test_a_broken_file_is_named_with_what_is_wrong(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_rows(str(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a folder without data files"):
        read_rows(str(tmp_path))


def test_a_name_that_the_hub_cannot_serve_is_refused_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"waits {seconds} s for another try"))
    own_s = time.process_time()
    with pytest.raises(ValueError, match=r"'nobody/nothing'.*neither a file .* nor loaded by name"):
        read_rows("nobody/nothing")
    assert time.process_time() - own_s < 20


def test_a_subset_is_only_for_hugging_face_data(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    with pytest.raises(ValueError, match="`subset` 'main' is for Hugging Face data sets"):
        load_mapped_rows(DataConfig(source=str(tmp_path / "a.jsonl"), subset="main"))


def test_reasoning_gym_rows_carry_what_their_scorer_needs() -> None:
    from reasoning_gym import get_score_answer_fn

    source = "reasoning_gym:chain_sum?min_terms=3&max_terms=3&min_digits=1&max_digits=1&allow_negation=true"
    rows = read_rows(source, num_generated=20)
    assert all(set(row) == {"question", "answer", "metadata"} for row in rows)
    assert all(row["metadata"]["source_dataset"] == "chain_sum" for row in rows)
    assert all(row["metadata"]["num_terms"] == 3 for row in rows)
    score = get_score_answer_fn(rows[0]["metadata"]["source_dataset"])
    assert score(answer=rows[0]["answer"], entry=rows[0]) == 1.0
    assert rows == read_rows(source, num_generated=20)


def test_generated_questions_never_repeat_so_ranges_share_none() -> None:
    # Two terms of one digit from 1 to 9 under + and −: far fewer than 2000 different questions.
    source = "reasoning_gym:chain_sum?min_terms=2&max_terms=2&min_digits=1&max_digits=1"
    parts: list[set[str]] = []
    for rows in ("0%:50%", "50%:100%"):
        config = DataConfig(source=source, rows=rows, num_generated=2000)
        parts.append({item.messages[0]["content"] for item in load_mapped_rows(config)})
    assert not parts[0] & parts[1]
    assert 50 < len(parts[0] | parts[1]) <= 2 * 10 * 10


def test_neighbouring_seeds_generate_other_rows() -> None:
    source = "reasoning_gym:chain_sum?min_terms=6&max_terms=6&min_digits=4&max_digits=4"
    first, second = ({row["question"] for row in read_rows(source, None, "train", 50, seed)} for seed in (0, 1))
    assert not first & second


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("chainsum", "no task 'chainsum'; did you mean 'chain_sum'"),
        ("zzzz", "no task 'zzzz'; there are .*chain_sum"),
        ("chain_sum?min_term=2", "no parameter 'min_term'; it has .*min_terms.*did you mean 'min_terms'"),
        ("chain_sum?seed=2", "'seed' is set by the options"),
        ("chain_sum?min_terms", "needs a value"),
        ("chain_sum?min_terms=[", "not a YAML value"),
        ("chain_sum?min_terms=two", "refuses these parameters"),
        ("chain_sum?min_terms=9&max_terms=3", "refuses these parameters"),
    ],
)
def test_a_wrong_task_or_parameter_is_answered_with_what_there_is(source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_rows(f"reasoning_gym:{source}", num_generated=10)


def test_values_that_are_not_json_do_not_break_the_fingerprint(tmp_path: Path) -> None:
    import datetime

    import pyarrow
    import pyarrow.parquet

    from raylign.rollout.data.mapping import fingerprint_rows

    def fingerprint(day: int) -> str:
        row: dict[str, Any] = {"question": "a", "answer": "b", "day": datetime.date(2020, 1, day), "raw": b"\xff"}
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "a.parquet")
        config = DataConfig(source=str(tmp_path / "a.parquet"))
        return fingerprint_rows(config, load_mapped_rows(config))

    assert fingerprint(1) == fingerprint(1) != fingerprint(2)
