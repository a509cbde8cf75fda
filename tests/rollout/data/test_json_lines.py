"""JSON lines: where a line ends, what a line may hold, and what is said of one that cannot be used.

Given files written on the spot; shows values with their lines, or the message with file and line.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raylign.jobs.compare.answer_files import read_answers
from raylign.jobs.data.draw_log import DrawIdentity, DrawLog
from raylign.jobs.run.folder import read_metrics, write_atomically
from raylign.rollout.data.json_lines import MAX_DEPTH, read_json_lines
from raylign.rollout.data.sources import read_rows

LINE_ENDS_OF_OTHERS = "a\u2028b\u2029c\u0085d\u001ce\u000bf\u000cg"
"""Every character but `\\n` and `\\r` at which `str.splitlines` cuts."""


def write(path: Path, *lines: str, start: str = "") -> Path:
    path.write_text(start + "".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def text_of(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def test_a_line_ends_at_a_newline_only_in_every_file_that_holds_json_lines(tmp_path: Path) -> None:
    text = LINE_ENDS_OF_OTHERS.replace("\u001c", "").replace("\u000b", "").replace("\u000c", "")
    line = text_of({"prompt": text, "response": text})
    file = write(tmp_path / "rows.jsonl", line, "", line, start="\ufeff")
    expected = [{"prompt": text, "response": text}] * 2
    assert [value for _, value in read_json_lines(file)] == expected
    assert [number for number, _ in read_json_lines(file)] == [1, 3], "an empty line holds nothing, and counts"
    assert read_rows(str(file)) == expected
    metrics = {f"reward/{text}/mean": 0.5}  # a reward may be called anything
    write(tmp_path / "metrics.jsonl", text_of(metrics), "", text_of(metrics), start="\ufeff")
    assert read_metrics(tmp_path) == [metrics] * 2
    assert [answer.text for answer in read_answers(file)] == [text] * 2


@pytest.mark.parametrize("character", LINE_ENDS_OF_OTHERS[1::2])
def test_what_is_written_with_any_character_is_read_again(character: str, tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.jsonl", text_of({"prompt": f"a{character}b"}) + "\n")
    assert [value for _, value in read_json_lines(tmp_path / "a.jsonl")] == [{"prompt": f"a{character}b"}]


def test_half_a_surrogate_pair_in_a_message_does_not_hinder_writing(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.jsonl", text_of({"failure": "no \ud83d"}) + "\n")
    assert json.loads((tmp_path / "a.jsonl").read_text("utf-8")) == {"failure": "no \ud83d"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "2+3? \\ud83d"}', r"rows.jsonl:2: column 'question' holds \\ud83d, half of a surrogate pair"),
        ('{"a": {"b": ["x", "\\ude00"]}}', r"rows.jsonl:2: column 'a.b' holds \\ude00"),
        ('{"a\\ud83d": 1}', r"rows.jsonl:2: column 'a\\ud83d' holds"),
        ('{"a": ' + "[" * 3000 + "]" * 3000 + "}", f"rows.jsonl:2: .* nested 3001 deep; at most {MAX_DEPTH} are read"),
        ('{"a": ' + "[" * 200 + "]" * 200 + "}", "rows.jsonl:2: .* nested 201 deep"),
        ('{"a": ' + "1" * 5000 + "}", "rows.jsonl:2: a number in it cannot be read .*; write it as a text"),
        ('{"a": 1', "rows.jsonl:2: not JSON: .* at column 8"),
        ("[1]", "rows.jsonl:2: a row must be a JSON object, not list"),
        ('"text"', "rows.jsonl:2: a row must be a JSON object, not str"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_file_and_line(line: str, message: str, tmp_path: Path) -> None:
    for ending in ("", ".gz"):
        file = write(tmp_path / f"rows.jsonl{ending}", '{"a": 1}', line)
        if ending:
            import gzip

            file.write_bytes(gzip.compress(file.read_bytes()))
        with pytest.raises(ValueError, match=message.replace("rows.jsonl", f"rows.jsonl{ending}")):
            read_rows(str(file))


def test_whole_pairs_and_brackets_inside_texts_are_ordinary(tmp_path: Path) -> None:
    rows = [{"a": "\U0001f600", "b": "[" * 3000, "c": "\\ud83d"}]
    assert read_rows(str(write(tmp_path / "a.jsonl", json.dumps(rows[0])))) == rows
    assert read_rows(str(write(tmp_path / "b.jsonl", text_of(rows[0])))) == rows


def test_half_a_surrogate_pair_in_a_list_of_rows_is_named_with_its_line(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", "[", '{"a": "x"},', '{"a": "\\ud83d"}', "]")
    with pytest.raises(ValueError, match=r"a.json:3: column 'a' holds \\ud83d"):
        read_rows(str(file))


def test_a_draw_that_cannot_be_read_is_named_with_file_and_line(tmp_path: Path) -> None:
    write(tmp_path / "draws.jsonl", "{")
    with pytest.raises(ValueError, match=r"draws.jsonl:1: not JSON"):
        DrawLog(tmp_path / "draws.jsonl", DrawIdentity("p", "f", 1))
