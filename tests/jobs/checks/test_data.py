"""What the plan says of data: the found format, the first pair's texts, warnings, tokens without an embedding.

Given small files and a tokenizer trained on the spot; shows facts, warnings and problems.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from raylign.jobs.checks.data import Samples, check_data
from raylign.jobs.checks.findings import Findings
from raylign.rewards.rules import NumericConfig
from raylign.rollout.data.config import DataConfig
from tests.rollout.data.small import assistant, small_tokenizer, user, write_rows


def findings_of(config: DataConfig, num_embeddings: int | None = None, **samples: Any) -> Findings:
    findings = Findings(num_embeddings=num_embeddings)
    check_data(Samples("data", config, samples.pop("rewards", []), 100, **samples), small_tokenizer(), 0, findings)
    return findings


def test_the_plan_says_what_was_found_and_shows_the_first_pair(tmp_path: Path) -> None:
    row = {"prompt": [user("2+2?")], "chosen": [assistant("4")], "rejected": [assistant("9")]}
    file = write_rows(tmp_path / "pairs.json", row, row)
    found = findings_of(DataConfig(source=file), max_sequence_tokens=100, row_kind="pairs")
    facts = dict(found.facts)
    assert facts["  found"] == "pairs of chats (data.format says it by hand)"
    assert facts["  read"] == "pairs.json: JSON lines, read as such (their usual ending is .jsonl)"
    assert (facts["  chosen"], facts["  rejected"]) == ("'4' (2 tokens)", "'9' (2 tokens)")
    assert not found.problems and not found.warnings


def test_missing_references_are_a_problem_where_a_reward_compares_with_them(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"question": "a", "answer": "1"}, {"question": "b", "answer": None}]
    config = DataConfig(source=write_rows(tmp_path / "rows.jsonl", *rows))
    refused = findings_of(config, rewards=[NumericConfig()])
    assert len(refused.problems) == 1 and "row 2: no reference answer" in refused.problems[0]
    left_out = findings_of(config.model_copy(update={"skip_unanswered": True}), rewards=[NumericConfig()])
    assert not left_out.problems
    assert "data: 1 rows left out: no demonstration, or no reference" in left_out.warnings


def test_a_row_that_needs_a_token_without_an_embedding_is_a_problem(tmp_path: Path) -> None:
    tokenizer = small_tokenizer()
    config = DataConfig(source=write_rows(tmp_path / "rows.jsonl", {"question": "one", "answer": "1"}))
    assert not findings_of(config, len(tokenizer), max_sequence_tokens=100).problems
    first_missing = max(tokenizer("one", add_special_tokens=False)["input_ids"])
    problems = findings_of(config, first_missing, max_sequence_tokens=100).problems
    assert len(problems) == 1 and "row 1 needs the token" in problems[0]


def test_what_is_wrong_with_a_file_is_a_problem_and_no_traceback(tmp_path: Path) -> None:
    for text in (json.dumps({"question": "\ud83d"}), '{"question": ' + "[" * 3000 + "]" * 3000 + "}", "{"):
        (tmp_path / "rows.jsonl").write_text(text)
        problems = findings_of(DataConfig(source=str(tmp_path / "rows.jsonl"))).problems
        assert len(problems) == 1 and "rows.jsonl:1: " in problems[0]
