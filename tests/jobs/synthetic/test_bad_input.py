"""What users give wrongly: demonstrations as one text, a broken task file or library, labels that no task reads."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from raylign.jobs.synthetic.examine import examine_synthesis
from raylign.jobs.synthetic.given import Given, read_given
from raylign.jobs.synthetic.rows import Row
from raylign.jobs.synthetic.verify import verify_rows
from raylign.rewards.tasks.opening import open_task
from tests.jobs.synthetic.by_hand import config_of

NOBODY = "http://127.0.0.1:9/v1"


def test_fifty_demonstrations_are_fifty_samples_and_not_fifty_characters(tmp_path: Path) -> None:
    path = tmp_path / "demos.jsonl"
    rows = [{"input": f"{number} + 1", "output": str(number + 1)} for number in range(120)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = read_given(config_of(tmp_path / "job", NOBODY, demo_examples=str(path), num_demos=50))
    assert len(read.demos) == 50 and read.demos[49].input == "49 + 1"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("absent.jsonl", None, "not found"),
        ("half.parquet", b"PAR1 half of it", "not a readable Parquet file"),
        ("lines.jsonl", b'"just a text"\n', "lines.jsonl:1"),
    ],
)
def test_demonstrations_that_cannot_be_read_are_refused(
    name: str, content: bytes | None, words: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_given(config_of(tmp_path / "job", NOBODY, demo_examples=str(tmp_path / name)))


def problems(folder: Path, **changes: Any) -> list[str]:
    found = examine_synthesis(config_of(folder / "job", NOBODY, model="nowhere", **changes), Given()).problems
    return [each for each in found if not each.startswith("model: ")]


def test_a_task_file_and_a_library_that_cannot_work_are_found_before_a_call(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("output_instruction = 'Say it.'\ndef read_answer(text): return text\n")
    (tmp_path / "library").mkdir()
    (tmp_path / "book.pdf").write_bytes(b"%PDF")
    task, folder, book = problems(
        tmp_path,
        task=str(tmp_path / "mine.py"),
        passage_paths=[str(tmp_path / "library"), str(tmp_path / "book.pdf")],
    )
    assert "mine.py has no read_label and no same" in task
    assert folder.startswith("passage_paths: library ") and "a folder without .jsonl" in folder
    assert "only .jsonl, .jsonl.gz, .parquet files are read" in book


def test_a_library_without_a_text_is_found_before_a_call_and_one_empty_file_of_several_is_none(tmp_path: Path) -> None:
    empty, bare, good = (tmp_path / f"{name}.jsonl" for name in ("empty", "bare", "good"))
    empty.write_text("\n")
    bare.write_text('{"text": ""}\nno JSON\n')
    good.write_text('{"text": "Rome lies on the Tiber."}\n')
    (nothing,) = problems(tmp_path, passage_paths=[str(empty)])
    assert nothing == f"passage_paths: library {empty}: no lines at all"
    (no_text,) = problems(tmp_path, passage_paths=[str(bare), str(empty)])
    assert "no text in any of 2 lines (1 of them broken)" in no_text
    assert problems(tmp_path, passage_paths=[str(empty), str(good)]) == []


class SaysE:
    """A teacher that answers E to most questions with the options A to D."""

    async def ask(self, stage: str, questions: Any) -> dict[str, list[str]]:
        return {each.row_id: ["<answer>E</answer>"] * 3 + ["<answer>option C</answer>"] for each in questions}


def test_what_is_no_label_wins_no_vote(tmp_path: Path) -> None:
    config = config_of(tmp_path, NOBODY).rows
    rows = [Row("r1", "initial", "Which one?", "<answer>C</answer>")]
    task = open_task("medqa")
    result = asyncio.run(verify_rows(SaysE(), task, rows, config, seed=0))  # type: ignore[arg-type]
    (row,) = result.rows
    assert task.read_label(row.label) == "C" and (len(row.targets), row.num_read, row.num_votes) == (2, 2, 5)
