"""What a finished job leaves: selected rows in order, lineage of all, data sets for imitation, the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raylign.jobs.data.dropped import Dropped
from raylign.jobs.synthetic.outputs import DROPPED, PARQUET, SELECTED, SFT, write_data, write_dropped
from raylign.jobs.synthetic.page import ROWS_OF_A_KIND, job_page
from raylign.jobs.synthetic.prompts import Demo
from raylign.jobs.synthetic.rows import Row
from raylign.jobs.synthetic.score import scored_rows
from raylign.jobs.synthetic.selection import Selection, SelectionConfig, select
from raylign.rewards.tasks.opening import open_task
from raylign.rollout.data.sources import read_rows


def row(row_id: str, num_right: int, **values: Any) -> Row:
    verdicts = tuple(number < num_right for number in range(4))
    targets = (f"one way\n#### {row_id[1:]}", f"another way\n#### {row_id[1:]}", f"one way\n#### {row_id[1:]}")
    right = tuple(f"own {number}\n#### {row_id[1:]}" for number in range(num_right))
    known: dict[str, Any] = {
        "stage": "initial",
        "input": f"question {row_id}",
        "output": "",
        "label": targets[1],
        "targets": targets,
        "num_read": 4,
        "num_votes": 5,
        "verdicts": verdicts,
        "right_answers": right,
    }
    return Row(row_id, **(known | values))


ROWS = [
    row("r1", 3),
    row("r2", 1, passage=7, demos=(0, 2)),
    row("r3", 0),
    row("r3e", 2, stage="easier", parent="r3"),
    row("r4", 4, is_solved=True),
]


def write(folder: Path, selection: Selection, rows: list[Row] = ROWS) -> None:
    write_data(folder, rows, selection, [Demo("test question", "#### 5")], open_task("gsm8k"))


def test_selected_rows_keep_their_order_and_the_test_set_is_beside_them(tmp_path: Path) -> None:
    write(tmp_path, select(scored_rows(ROWS), 10, SelectionConfig()))
    selected = read_rows(str(tmp_path / SELECTED))
    assert [each["row_id"] for each in selected] == ["r2", "r3e", "r1"]
    first = selected[0]
    assert (first["passage"], first["demos"], first["votes"], first["votes_read"], first["votes_asked"]) == (
        7,
        [0, 2],
        3,
        4,
        5,
    )
    assert (first["k"], first["L"], first["score"], first["verdicts"]) == (1, 4, 0.25, [True, False, False, False])
    assert first["prompt"].startswith("question r2 Reason step by step.") and first["output"] == "another way\n#### 2"
    assert first["all_lengths"] == [len(text) for text in first["all"]] and len(first["all"]) == 3
    assert (selected[1]["stage"], selected[1]["parent"]) == ("easier", "r3")
    (test,) = read_rows(str(tmp_path / SELECTED), split="test")
    assert (test["input"], test["output"]) == ("test question", "#### 5") and set(test) == set(first)


def test_every_row_is_in_the_table_and_right_replies_are_targets_for_imitation(tmp_path: Path) -> None:
    write(tmp_path, select(scored_rows(ROWS), 10, SelectionConfig()))
    assert [each["row_id"] for each in read_rows(str(tmp_path / PARQUET))] == ["r1", "r2", "r3", "r3e", "r4"]
    teacher = read_rows(str(tmp_path / SFT), split="teacher")
    assert [each["row_id"] for each in teacher] == ["r2", "r2", "r3e", "r3e", "r1", "r1"]  # equal replies once
    assert {each["response"] for each in teacher[:2]} == {"one way\n#### 2", "another way\n#### 2"}
    own = read_rows(str(tmp_path / SFT), split="own")
    assert [each["row_id"] for each in own] == ["r2", "r3e", "r3e", "r1", "r1", "r1"]
    assert all(each["prompt"].startswith(f"question {each['row_id']} ") for each in own)


def test_a_row_that_is_drawn_twice_is_trained_twice_and_imitated_once(tmp_path: Path) -> None:
    write(tmp_path, Selection(("r2", "r1", "r2"), 3, 3, {}))
    assert [each["row_id"] for each in read_rows(str(tmp_path / SELECTED))] == ["r2", "r1", "r2"]
    assert len(read_rows(str(tmp_path / SFT), split="teacher")) == 4


def test_writing_again_replaces_all_and_equal_rows_make_equal_files(tmp_path: Path) -> None:
    selection = select(scored_rows(ROWS), 10, SelectionConfig())
    write(tmp_path / "a", selection)
    write(tmp_path / "b", select(scored_rows(ROWS), 1, SelectionConfig()))
    write(tmp_path / "b", selection)
    for file in sorted((tmp_path / "a").rglob("*")):
        if file.is_file():
            assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes(), file
    assert not [path for path in tmp_path.rglob(".tmp-*")]


def test_half_a_character_of_a_teacher_costs_no_job(tmp_path: Path) -> None:
    rows = [row("r1", 1, targets=("cut \ud83d",), label="cut \ud83d")]
    write(tmp_path, Selection(("r1",), 1, 1, {1: 1}), rows)
    assert read_rows(str(tmp_path / SELECTED))[0]["output"] == "cut \\ud83d"


def test_what_was_left_out_is_kept_with_stage_and_reason(tmp_path: Path) -> None:
    write_dropped(
        tmp_path, [Dropped("r9", "verify", "votes do not agree", "a\u2028b"), Dropped("r8", "score", "too long")]
    )
    lines = [json.loads(line) for line in (tmp_path / DROPPED).read_text().split("\n")[:-1]]
    assert [(line["row_id"], line["stage"], line["reason"]) for line in lines] == [
        ("r9", "verify", "votes do not agree"),
        ("r8", "score", "too long"),
    ]


@pytest.fixture
def page() -> str:
    usage = {"num_calls": 7, "prompt_tokens": 10, "completion_tokens": 5, "cached_tokens": 0, "cost": 0.25}
    many = [row(f"r{100 + number}", number % 4, input=f"<script>{number}</script>") for number in range(50)]
    rewritten = [row("r100h", 4, stage="harder", parent="r100")]
    summary = {
        "selected_ids": ["r101"],
        "num_selected": 1,
        "num_scored": 51,
        "num_learnable": 37,
        "stages": {"generate": {"rows": 50, "dropped": 2}, "score": {"rows": 51, "dropped": 0}},
        "teacher": {"total": usage, "by_stage": {"generate": usage}},
    }
    dropped = [Dropped("r1", "generate", "no object with input and output", "<b>what</b>")] * 2
    return job_page("A <job>", summary, [*many, *rewritten], dropped)


def test_the_page_shows_pass_counts_before_and_after_adaptation(page: str) -> None:
    before, after = page.split("All rows, after adaptation")
    for k, num_rows in ((0, 13), (1, 13), (2, 12), (3, 12)):
        assert f"{k} of 4</td>" in before and f">{num_rows}</td>" in before
    assert "4 of 4</td>" not in before and "4 of 4</td>" in after


def test_the_page_shows_thirty_rows_of_each_kind_with_nothing_unescaped(page: str) -> None:
    assert f"Initial rows ({ROWS_OF_A_KIND} of 50)" in page and "Harder rows (1 of 1)" in page
    assert "Selected rows (1 of 1)" in page and "Left out (2 of 2)" in page
    assert "<script>0" not in page and "&lt;script&gt;0" in page and "<b>what" not in page and "A &lt;job&gt;" in page
    assert "no object with input and output" in page and "0.25" in page
