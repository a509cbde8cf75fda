"""Rule rewards on completions whose right score is plain to see."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from raylign.rewards import answers
from raylign.rewards.base import Item, RewardFailure, Score
from raylign.rewards.registry import RewardConfig, build_reward


def score(config: dict[str, Any], *completions: str, references: tuple[str, ...] = (), **rest: Any) -> list[Score]:
    reward = build_reward(TypeAdapter(RewardConfig).validate_python(config))
    try:
        return reward.score([Item("prompt", completions, references, **rest)])[0]
    finally:
        reward.close()


def test_numeric_compares_values_not_spelling() -> None:
    assert score({"name": "numeric"}, "5.0", "5", "so 05.", "50", "-5", "five", references=("5",)) == [1, 1, 1, 0, 0, 0]


def test_numeric_tolerance_is_absolute_and_inclusive() -> None:
    config = {"name": "numeric", "tolerance": 0.25}
    assert score(config, "3.25", "2.75", "3.26", references=("3",)) == [1, 1, 0]


def test_numbers_of_sixty_digits_that_differ_in_the_last_are_different() -> None:
    assert score({"name": "numeric"}, "9" * 60, "9" * 59 + "8", references=("9" * 60,)) == [1, 0]


def test_any_of_several_references_counts() -> None:
    assert score({"name": "exact"}, "a", "b", "c", references=("a", "b")) == [1, 1, 0]


def test_exact_ignores_spaces_at_the_ends_and_case_only_when_asked() -> None:
    assert score({"name": "exact"}, " Yes\n", "yes", "Yes!", references=("Yes",)) == [1, 0, 0]
    assert score({"name": "exact", "ignore_case": True}, "yes", "YES", references=("Yes",)) == [1, 1]


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{42}", "42"),
        (r"so \boxed{\frac{1}{2}} is it", r"\frac{1}{2}"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{a \{ b}", r"a \{ b"),
        (r"\boxed{1} then \boxed{2", "1"),
        (r"\boxed {7}", "7"),
        (r"\fbox{8}", "8"),
        (r"} \boxed{9}", "9"),
        ("{3}", None),
        ("", None),
    ],
)
def test_boxed_answer_is_the_last_closed_one(text: str, content: str | None) -> None:
    assert answers.boxed(text) == content


def test_boxed_reward_compares_text_or_number() -> None:
    assert score({"name": "boxed"}, r"\boxed{x+1}", "x+1", references=("x+1",)) == [1, 0]
    assert score({"name": "boxed"}, r"\boxed{4}", references=(r"2+2 = \boxed{4}",)) == [1]
    numeric = {"name": "boxed", "comparison": "numeric"}
    assert score(numeric, r"\boxed{4.0}", r"\boxed{5}", "4", references=("4",)) == [1, 0, 0]


def test_hash_reads_gsm8k_answers_on_both_sides() -> None:
    reference = "She sold 48+24 = 72.\n#### 1,072"
    completions = ("work\n#### 1072", "#### $1,072.00\nmore 9", "1072", "####", "#### 72")
    assert score({"name": "hash"}, *completions, references=(reference,)) == [1, 1, 0, 0, 0]


def test_tag_reads_inside_the_last_closed_tag() -> None:
    completions = ("<answer> 7 </answer>", "7", "<answer>7", "<answer>8</answer><answer>7</answer>")
    assert score({"name": "tag"}, *completions, references=("7",)) == [1, 0, 0, 1]
    numeric = {"name": "tag", "tag": "final", "comparison": "numeric"}
    assert score(numeric, "<final>it is 7.0</final>", references=("7",)) == [1]


def test_default_format_is_think_then_answer_and_nothing_else() -> None:
    completions = (
        "<think>a\nb</think>\n<answer>c</answer>",
        "<think>a</think><answer>c</answer> more",
        "<answer>c</answer>",
        "<think>a</think><answer>c",
        "<think>a<think>b</think><answer>c</answer>",
    )
    assert score({"name": "format"}, *completions) == [1, 0, 0, 0, 0]


def test_format_matches_the_whole_completion_and_regex_any_part() -> None:
    assert score({"name": "format", "pattern": r"\d+"}, "12", "a12", "12b") == [1, 0, 0]
    assert score({"name": "regex", "pattern": r"\d+"}, "a12b", "none") == [1, 0]


def test_regex_group_is_compared_with_the_reference() -> None:
    config = {"name": "regex", "pattern": r"answer: (\w+)"}
    assert score(config, "answer: a answer: b", "answer: a", "b", references=("b",)) == [1, 0, 0]


def test_backtracking_pattern_costs_one_completion() -> None:
    config = {"name": "regex", "pattern": "(a+)+b$", "deadline_s": 3}
    scores = score(config, "aab", "a" * 40, "ab", references=("aa", "a"))
    assert scores[0] == 1 and scores[2] == 1
    assert isinstance(scores[1], RewardFailure) and scores[1].kind == "timeout"


def test_length_penalty_falls_linearly_from_free_to_max() -> None:
    config = {"name": "length", "free_tokens": 10, "max_tokens": 20}
    assert score(config, *"abcde", num_tokens=(0, 10, 15, 20, 99)) == [0, 0, -0.5, -1, -1]


def test_length_without_token_counts_is_a_failure_not_a_score() -> None:
    (failure,) = score({"name": "length", "free_tokens": 1, "max_tokens": 2}, "a")
    assert isinstance(failure, RewardFailure) and "tokens" in failure.message


@pytest.mark.parametrize("name", ["exact", "numeric", "boxed", "hash", "tag", "bleu", "rouge", "bleu_rouge_f1"])
def test_missing_reference_is_a_typed_failure_that_says_so(name: str) -> None:
    (failure,) = score({"name": name}, "1")
    assert isinstance(failure, RewardFailure)
    assert failure.kind == "exception" and "reference" in failure.message


def test_reference_without_a_number_is_a_failure_not_a_wrong_answer() -> None:
    (failure,) = score({"name": "numeric"}, "1", references=("one",))
    assert isinstance(failure, RewardFailure) and "'one'" in failure.message


@pytest.mark.parametrize(
    "config",
    [
        {"name": "regex", "pattern": "("},
        {"name": "length", "free_tokens": 5, "max_tokens": 5},
        {"name": "numeric", "tolerance": -1},
        {"name": "numeric", "weight": float("nan")},
        {"name": "tag", "tag": "<answer>"},
        {"name": "http", "url": "localhost:1"},
        {"name": "function", "path": "reward.py"},
    ],
)
def test_option_out_of_range_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(RewardConfig).validate_python(config)


def test_kind_choice_compares_letters_and_refuses_a_reference_that_is_none() -> None:
    dressed = ("(C)", "C.", "**C**", "option C", r"\text{C}", "B", "")
    assert score({"name": "exact", "kind": "choice"}, *dressed, references=("C",)) == [1, 1, 1, 1, 1, 0, 0]
    assert score({"name": "boxed", "kind": "choice"}, r"\boxed{(C)}", "C", references=("(C) Paris",)) == [1, 0]
    (failure,) = score({"name": "exact", "kind": "choice"}, "C", references=("Paris",))
    assert isinstance(failure, RewardFailure) and "no letter" in failure.message


def test_numeric_never_compares_a_compound_reference_by_its_last_number() -> None:
    assert score({"name": "numeric"}, "2", "0.5", "1/2", references=("1/2",)) == [0, 1, 1]
    (failure,) = score({"name": "numeric"}, "3", references=("2 apples and 3 pears",))
    assert isinstance(failure, RewardFailure) and "math_verify" in failure.message
