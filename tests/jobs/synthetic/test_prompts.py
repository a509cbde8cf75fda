"""What the teacher is asked, and how its replies become rows."""

from __future__ import annotations

import pytest

from raylign.jobs.synthetic.prompts import (
    Demo,
    TaskTexts,
    generation_prompt,
    keyword_prompt,
    pattern_prompt,
    read_row,
    read_terms,
    rewrite_prompt,
)

TEXTS = TaskTexts("Add numbers.", "A sum.", "Write the number.")
DEMOS = [Demo("1 + 1", "2"), Demo("2 + {2}", "4")]


def test_the_parts_of_a_generation_prompt_stand_in_the_order_of_the_original() -> None:
    text = generation_prompt(TEXTS, "They are short.", DEMOS, "A passage with {braces}.")
    parts = ["one JSON object", "Add numbers.", "A sum.", "Write the number.", "They are short.", "1 + 1", "2 + {2}"]
    places = [text.index(part) for part in [*parts, "A passage with {braces}."]]
    assert places == sorted(places)


def test_what_is_not_there_leaves_no_trace() -> None:
    text = generation_prompt(TaskTexts("Add.", None, ""), "They are short.", [], None)
    assert text.endswith("Task: Add.") and "short" not in text and "None" not in text
    for prompt in (keyword_prompt(TEXTS, []), pattern_prompt(TEXTS, [])):
        assert "Samples" not in prompt and "None" not in prompt


def test_a_rewrite_is_asked_harder_for_solved_rows_and_easier_for_others() -> None:
    assert "too simple" in rewrite_prompt(True, "a", "b") and "too hard" in rewrite_prompt(False, "a", "b")


@pytest.mark.parametrize(
    "reply",
    [
        '{"input": "1 + 1", "output": "2"}',
        'Sure!\n```json\n{"input": "1 + 1", "output": "2"}\n```\nAnother one?',
        "{'input': '1 + 1', 'output': '2'}",
        '{"Input": "1 + 1", "Output": 2}',
        '{"input": " 1 + 1 ", "output": "2", "why": {"so": [1]}}',
        'The set {1, 2}: ```\n{"input": "1 + 1", "output": "2"}\n```',
    ],
)
def test_a_row_is_read_as_json_or_else_as_a_literal(reply: str) -> None:
    assert read_row(reply) == Demo("1 + 1", "2")


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "no",
        "{}",
        '{"input": "1"}',
        '{"input": "", "output": "2"}',
        '{"input": ["1"], "output": "2"}',
        '{"input": true, "output": "2"}',
        "{'input': __import__('os').getcwd(), 'output': '2'}",
        "{" * 100_000,
        '["input", "output"]',
        '{"input": 1',
    ],
)
def test_what_is_no_row_is_none(reply: str) -> None:
    assert read_row(reply) is None


def test_a_line_break_inside_a_json_text_is_read() -> None:
    assert read_row('{"input": "1\n+ 1", "output": "2"}') == Demo("1\n+ 1", "2")


def test_terms_are_a_list_or_lines() -> None:
    assert read_terms('Here: ["sums", "adding up", 3, ""]') == ["sums", "adding up"]
    assert read_terms("- sums\n- adding up, taking away") == ["sums", "adding up", "taking away"]
