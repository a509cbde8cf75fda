"""Files as people bring them: shards, tables of every kind, encodings, JSON under another name, packed bombs.

Given files written on the spot; shows rows and notes, or the message that says what a file is.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raylign.rollout.data.config import DataConfig
from raylign.rollout.data.loading import load_rows
from raylign.rollout.data.mapping import fingerprint_rows
from raylign.rollout.data.sources import Reading, RowsRead, read_rows, read_source
from raylign.rollout.data.text_files import GIB, check_unpacked_size

ROWS = [{"question": "ä, 1;?", "answer": "01"}, {"question": 'b "x"', "answer": "2"}]


def read(path: Path | str, split: str = "train", **keys: Any) -> RowsRead:
    return read_source(str(path), None, split, 1, 0, Reading(**keys))


def table(delimiter: str, *lines: tuple[str, ...]) -> str:
    import csv
    import io

    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(lines)
    return text.getvalue()


def plain(delimiter: str = ",") -> str:
    return table(delimiter, ("question", "answer"), *((row["question"], row["answer"]) for row in ROWS))


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("a.tsv", plain("\t").encode(), "tabs between"),
        ("a.csv", plain("\t").encode(), "tabs between"),
        ("a.csv", plain(";").encode(), "semicolons between"),
        ("a.csv", plain("|").encode(), "bars between"),
        ("a.csv", plain().encode("utf-16"), None),
        ("a.csv", plain(";").encode("utf-8-sig"), "semicolons"),
        ("a.csv", plain().replace("\r\n", "\r").encode(), None),
        ("a.tsv.gz", gzip.compress(plain("\t").encode(), mtime=0), "tabs"),
        ("a.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode("utf-16"), None),
        ("a.csv", table(",", ("", "question", "answer"), ("0", *ROWS[0].values()), ("1", *ROWS[1].values())).encode(),
         "column '' left out: row numbers that pandas added"),
        ("a.csv", table(",", ("Unnamed: 0", "question", "answer"), ("7", *ROWS[0].values()),
                        ("4", *ROWS[1].values())).encode(), "column 'Unnamed: 0' left out"),
        ("a.csv", table(",", ("question", "answer", ""), (*ROWS[0].values(), ""), (*ROWS[1].values(), "")).encode(),
         "the last column left out: it has no name and no values"),
        ("a.json", "".join(json.dumps(row) + "\n" for row in ROWS).encode(), "JSON lines, read as such"),
        ("a.json", json.dumps(ROWS, indent=2).encode(), None),
        ("a.ndjson", "".join(json.dumps(row) + "\n" for row in ROWS).encode(), None),
    ],
)  # fmt: skip
def test_a_file_is_read_as_it_was_written(name: str, content: bytes, note: str | None, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    found = read(tmp_path / name)
    assert found.rows == ROWS
    assert (note is None and not found.notes) or (note is not None and note in " ".join(found.notes))


def test_a_declared_encoding_and_delimiter_are_used(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(plain("~").encode("cp1252"))
    with pytest.raises(ValueError, match=r"not UTF-8 text .*; set data.encoding to how it was written, .* cp1252"):
        read(tmp_path / "a.csv")
    assert read(tmp_path / "a.csv", encoding="cp1252", delimiter="~").rows == ROWS
    for encoding in ("cp12522", "base64", "rot13"):
        with pytest.raises(ValueError, match=f"encoding '{encoding}' is not known"):
            DataConfig(encoding=encoding)


def test_row_numbers_in_parquet_are_left_out(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{**row, "__index_level_0__": n} for n, row in enumerate(ROWS)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet").rows == ROWS


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{\n "a": 1\n}\n{\n "a": 2\n}\n', "an object over several lines .pretty-printed.; .* one object a"),
        ("a.jsonl", '[\n {"a": 1}\n]\n', "a list over several lines: name it .json"),
        ("a.jsonl", '[{"a": 1}]\n', r"not list \(a whole list is a .json file: rename it\)"),
        ("a.jsonl", '{"a": 1}{"a": 2}\n', "several objects in a line"),
        ("a.jsonl", '{"a": 1},\n{"a": 2},\n', "a comma after each object; JSON lines have none"),
        ("a.json", '{"a": 1}', "this is a single object"),
        (
            "a.jsonl",
            "version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
            "a pointer of Git LFS .* git lfs pull",
        ),
        ("a.parquet", "version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a pointer of Git LFS"),
        ("a.json", '{"rows": [{"a": 1}], "version": 2}', "an object with lists in it; write the list 'rows' alone"),
        ("a.json", '{"a": {"0": 1}}', "a table by columns; pandas writes rows with to_json"),
        ("a.json", '[{"a": 1}, 2]', "a list with a int in it"),
        ("a.json", '{"a": 1}\n{"a": \n', "a.json:2: not JSON"),
        ("a.csv", "a,,b\n1,x,2\n", "different, non-empty column names"),
        ("a.csv", "a,b\n1,2,3\n", "a.csv:2: 3 values for 2 columns .*data.delimiter"),
    ],
)
def test_a_file_that_is_something_else_is_told_what_it_is(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / name)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.mark.parametrize(("ending", "write"), [("jsonl", write_jsonl), ("parquet", write_parquet)])
def test_shards_are_read_in_the_order_of_their_names_with_one_fingerprint(
    ending: str, write: Callable[[Path, list[dict[str, Any]]], None], tmp_path: Path
) -> None:
    rows = [{"question": f"q{n}", "answer": str(n)} for n in range(6)]
    for n in (2, 0, 1):
        write(tmp_path / f"part-{n}.{ending}", rows[2 * n : 2 * n + 2])
    write(tmp_path / ".hidden" / f"x.{ending}", rows)
    for source in (tmp_path, tmp_path / f"*.{ending}", tmp_path / "part-[0-2].*"):
        found = read(source)
        assert found.rows == rows
        assert found.notes == [f"3 files in the order of their names: part-0.{ending} to part-2.{ending}"]

    def fingerprint() -> str:
        loaded = load_rows(DataConfig(source=str(tmp_path)))
        return fingerprint_rows(loaded.config, loaded.mapped)

    before = fingerprint()
    write(tmp_path / f"part-2.{ending}", [rows[4], {"question": "q5", "answer": "other"}])
    assert fingerprint() != before


def test_a_hub_snapshot_is_read_by_split(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", [ROWS[0]])
    write_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", [ROWS[1]])
    write_parquet(tmp_path / "data" / "validation-00000-of-00001.parquet", [ROWS[1]])
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# Rows\n")
    assert read(tmp_path).rows == ROWS
    assert read(tmp_path, split="validation").rows == [ROWS[1]]
    with pytest.raises(ValueError, match="no files of split 'test'; there are train, validation"):
        read(tmp_path, split="test")


def test_a_data_card_says_which_files_are_which_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "snapshot"
    write_jsonl(folder / "one.jsonl", [ROWS[0]])
    write_jsonl(folder / "two.jsonl", [ROWS[1]])
    card = "configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: two.jsonl\n"
    (folder / "README.md").write_text(f"---\n{card}---\n")
    assert read(folder).rows == [ROWS[1]]


def test_a_folder_or_glob_that_means_several_things_is_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "part.jsonl", ROWS)
    write_jsonl(tmp_path / "test.jsonl", ROWS)
    with pytest.raises(ValueError, match=r"some files name a split \(test\) and part.jsonl names none"):
        read(tmp_path)
    write_parquet(tmp_path / "both" / "a.parquet", ROWS)
    write_jsonl(tmp_path / "both" / "a.jsonl", ROWS)
    with pytest.raises(ValueError, match=r"files of several kinds .*maybe the same rows twice"):
        read(tmp_path / "both")
    with pytest.raises(ValueError, match="no file is named like"):
        read(tmp_path / "nothing-*.jsonl")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="a folder without data files"):
        read(empty)


def test_a_packed_file_is_unpacked_up_to_a_limit_only(tmp_path: Path) -> None:
    """A member of 4 MB, 600 times: 2.4 GB in a few MB. Nothing beyond the limit is unpacked, and none of it is kept."""
    line = json.dumps({"question": "What is 2+3?", "answer": "5"}) + "\n"
    member = gzip.compress((line * ((4 << 20) // len(line))).encode())
    bomb = tmp_path / "bomb.jsonl.gz"
    bomb.write_bytes(member * 600)
    with pytest.raises(ValueError, match=r"MB that unpack to more than 0.25 GiB; .* Raise data.max_unpacked_gib"):
        read(bomb, max_unpacked_gib=0.25)
    with pytest.raises(ValueError, match="more than 2 GiB"):
        read_rows(str(bomb))
    bomb.write_bytes(member)
    check_unpacked_size(bomb, 1.01 * (4 << 20) / GIB)
    with pytest.raises(ValueError, match="unpack to more than"):
        check_unpacked_size(bomb, 0.9 * (4 << 20) / GIB)


def test_a_parquet_file_is_unpacked_up_to_a_limit_only(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [{"a": "x" * 1000}] * 5000)
    with pytest.raises(ValueError, match=r"unpacks to more than 0\.001 GiB"):
        read(tmp_path / "a.parquet", max_unpacked_gib=0.001)


def test_bytes_are_no_text(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    write_parquet(tmp_path / "a.parquet", [{"question": b"\xff", "answer": "1"}])
    with pytest.raises(ValueError, match="row 1: column 'question' holds bytes, which are no text"):
        load_rows(DataConfig(source=str(tmp_path / "a.parquet")))
    ends = pyarrow.array([0, 1], pyarrow.int32()).buffers()[1]
    wrong = pyarrow.Array.from_buffers(pyarrow.string(), 1, [None, ends, pyarrow.py_buffer(b"\xff")])
    pyarrow.parquet.write_table(pyarrow.table({"question": wrong}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet: a column of strings is not UTF-8 text"):
        read(tmp_path / "b.parquet")
