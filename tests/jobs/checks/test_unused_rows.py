"""Rows of a source that no section reads are said; training and held-out rows that share a file read all of it."""

from __future__ import annotations

from raylign.jobs.checks.unused_rows import SectionRead, unused_rows
from raylign.rollout.data.config import DataConfig


def read(key: str, rows: str, count: int = 200, **more: str) -> SectionRead:
    return SectionRead(key, DataConfig(source="own.jsonl", rows=rows, **more), count)  # type: ignore[arg-type]


def test_a_recipe_that_halves_a_file_is_named_with_its_numbers() -> None:
    assert unused_rows([read("data", "0%:50%", 201)]) == ["100 of 201 rows of own.jsonl are used: data.rows 0%:50%"]


def test_sections_that_together_read_a_source_leave_nothing_over() -> None:
    assert unused_rows([read("data", "20%:100%"), read("evaluation.data", "0%:20%")]) == []
    assert unused_rows([read("data", "0%:100%"), read("evaluation.data", "0%:20%")]) == []


def test_a_gap_between_two_sections_and_other_splits_are_seen() -> None:
    (words,) = unused_rows([read("data", "0%:50%"), read("evaluation.trusted", "97%:100%")])
    assert words.startswith("106 of 200 rows") and "evaluation.trusted.rows 97%:100%" in words
    apart = unused_rows([read("data", "0%:50%"), read("evaluation.data", "50%:100%", split="test")])
    assert len(apart) == 2
