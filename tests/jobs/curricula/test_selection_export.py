"""What a run of BDR shows of its selection: the file, the subset for a fresh sft, the page in the report."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from raylign.jobs.checks.levels import level_warnings
from raylign.jobs.curricula.selection import read_selection, write_selection
from raylign.jobs.report.selection import selection_html
from raylign.learners.algorithms.bilevel.bdr import BdrConfig
from raylign.learners.algorithms.bilevel.bdr_online import BdrOnlineConfig
from raylign.learners.algorithms.bilevel.two_levels import TwoLevelConfig
from raylign.rollout.data.config import DataConfig
from raylign.rollout.data.prompts import PromptSource
from raylign.rollout.model_folder import load_tokenizer
from raylign.rollout.sample import Completion, Group, VersionSpan
from tests.conftest import MakeModel

EVIL = "<script>alert('x')</script>"
LOGITS = np.array([0.5, -0.2, 0.0, 1.0, -1.0, 0.3], np.float32)
WEIGHTS = np.array([1.251643, 0.621548, 0.759160, 2.063611, 0.279279, 1.024759], np.float32)
STATE = {"logits": LOGITS, "weights": WEIGHTS}


def rows_of(folder: Path, model: Path, rows: list[dict[str, Any]], **settings: Any) -> PromptSource:
    folder.mkdir(exist_ok=True)
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DataConfig(source=str(path), reference="{response}", template="{prompt}", **settings)
    return PromptSource.open(config, load_tokenizer(model), 0, 500, 1000)


@pytest.fixture
def rows(tmp_path: Path, make_tiny_model: MakeModel) -> PromptSource:
    made = [{"question": f"q{number} {EVIL}", "response": f"r{number} {EVIL}", "origin": "x"} for number in range(6)]
    return rows_of(tmp_path / "data", make_tiny_model("llama", tied=True), made)


def answered(rows: PromptSource, row: int) -> Group:
    completion = Completion(
        np.ones(2, np.int32), np.zeros(2, np.float32), (VersionSpan(7, 0, 2),), "stop", f"better {EVIL}"
    )
    return Group(rows.prompt_of_row(row, 99), (completion,))


def test_every_row_is_there_with_text_weight_and_what_became_of_it(rows: PromptSource, tmp_path: Path) -> None:
    write_selection(tmp_path, rows, BdrOnlineConfig(filter_rate=0.5).selection, STATE, {4: answered(rows, 4)}, 12)
    found = read_selection(tmp_path)
    assert [row["state"] for row in found] == ["kept", "dropped", "dropped", "kept", "regenerated", "kept"]
    assert found[4]["answers"] == [{"text": f"better {EVIL}", "version": 7}]
    assert found[2]["prompt"] == f"q2 {EVIL}"
    assert found[2]["response"] == f"r2 {EVIL}"
    np.testing.assert_allclose([row["weight"] for row in found], WEIGHTS)
    metadata = pyarrow.parquet.read_table(tmp_path / "selection.parquet").schema.metadata
    assert metadata[b"raylign.step"] == b"12"


@pytest.mark.parametrize(
    ("algorithm", "kept"),
    [
        (BdrConfig(), {0, 3, 5}),  # weight at least 1, as all had at the start
        (BdrConfig(gate=True, filter_rate=0.2), {0, 2, 3, 5}),  # ⌊6 · 0.8⌋ rows
        (BdrConfig(export_top_p=0.34), {0, 3}),
        (BdrOnlineConfig(filter_rate=0.9), {3}),
    ],
)
def test_which_rows_count_as_kept(
    rows: PromptSource, tmp_path: Path, algorithm: TwoLevelConfig, kept: set[int]
) -> None:
    write_selection(tmp_path, rows, algorithm.selection, STATE, {}, 1)
    assert {row["row"] for row in read_selection(tmp_path) if row["state"] == "kept"} == kept


def test_the_top_rows_are_exported_as_they_stood_in_the_data(rows: PromptSource, tmp_path: Path) -> None:
    write_selection(tmp_path, rows, BdrConfig(export_top_p=0.5).selection, STATE, {}, 1)
    lines = [json.loads(line) for line in (tmp_path / "selected.jsonl").read_text().splitlines()]
    assert lines == [rows.mapped_row(row).row for row in (0, 3, 5)]
    assert lines[0]["origin"] == "x"


def test_without_top_p_nothing_is_exported(rows: PromptSource, tmp_path: Path) -> None:
    write_selection(tmp_path, rows, BdrConfig().selection, STATE, {}, 1)
    assert not (tmp_path / "selected.jsonl").exists()


def test_the_page_shows_both_ends_and_lets_nothing_through(rows: PromptSource, tmp_path: Path) -> None:
    write_selection(tmp_path, rows, BdrOnlineConfig(filter_rate=0.5).selection, STATE, {4: answered(rows, 4)}, 1)
    html = selection_html(tmp_path)
    tags: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.append(tag)  # type: ignore[method-assign, assignment]
    parser.feed(html)
    assert "script" not in tags
    assert "weight version 7" in html
    assert "question kept, answered by the policy" in html
    assert html.count("<details") == 3


def test_a_run_without_selection_has_no_such_page(tmp_path: Path) -> None:
    assert selection_html(tmp_path) == ""


# ---- bad input -------------------------------------------------------------------------------------------------------


def test_swapped_and_overlapping_data_sets_are_warned_about_with_counts(
    tmp_path: Path, make_tiny_model: MakeModel
) -> None:
    model = make_tiny_model("llama", tied=True)
    many = [{"question": f"q{number}", "response": "a"} for number in range(9)]
    few = [*many[:2], {"question": "q5", "response": "b"}, {"question": "other", "response": "a"}]
    weighed, trusted = rows_of(tmp_path / "a", model, few), rows_of(tmp_path / "b", model, many)
    swapped, same, questions = level_warnings(weighed, trusted, trusted_are_pairs=False)
    assert swapped.startswith("trusted_data has 9 rows and data 4")
    assert same.startswith("2 of 4 rows of data stand in trusted_data with the same response")
    assert questions.startswith("1 of 4 rows of data have a prompt of trusted_data with another response")
    clean = rows_of(tmp_path / "c", model, [{"question": "new", "response": "a"}])
    assert list(level_warnings(weighed, clean, trusted_are_pairs=False)) == []


def test_an_empty_response_is_refused_by_name(tmp_path: Path, make_tiny_model: MakeModel) -> None:
    made = [{"question": "q", "response": "a"}, {"question": "p", "response": "  "}]
    with pytest.raises(ValueError, match=r"rows.jsonl, row 2: no demonstration to learn from; so have 1 of 2 rows"):
        rows_of(tmp_path / "a", make_tiny_model("llama", tied=True), made)


def test_columns_of_any_name_are_honoured(tmp_path: Path, make_tiny_model: MakeModel) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"ask": "why", "say": "so"}) + "\n")
    config = DataConfig(source=str(path), prompt="{ask}", response="{say}", reference=None, template="{prompt}")
    tokenizer = load_tokenizer(make_tiny_model("llama", tied=True))
    assert PromptSource.open(config, tokenizer, 0, 500, 1000).texts_of_row(0) == ("why", "so")
