"""The reward `task`: the response only (acceptance 8), values in training and validation, a user's file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from raylign.rewards.base import Graded, Item, RewardFailure, Score
from raylign.rewards.registry import RewardConfig, build_reward, config_from_json, is_quick, reference_check


def scores(config: dict[str, Any], *items: Item) -> list[list[Score]]:
    reward = build_reward(TypeAdapter(RewardConfig).validate_python({"name": "task"} | config))
    try:
        return reward.score(items)
    finally:
        reward.close()


EXAMPLE = Item(
    "Answer like this: <answer>A</answer>", ("I do not know", "<answer>A</answer>", "<answer>B</answer>"), ("B",)
)


def test_an_example_in_the_prompt_earns_nothing() -> None:
    assert scores({"task": "logiqa"}, EXAMPLE) == [[0.0, 0.1, 1.0]]


def test_in_validation_only_a_right_answer_counts() -> None:
    assert scores({"task": "logiqa", "values": "validation"}, EXAMPLE) == [[0.0, 0.0, 1.0]]
    assert scores({"task": "logiqa", "wrong_reward": 0.3}, EXAMPLE) == [[0.0, 0.3, 1.0]]


def test_shares_of_right_and_readable_answers_become_metrics() -> None:
    ((_, wrong, right),) = scores({"task": "logiqa"}, EXAMPLE)
    assert isinstance(wrong, Graded) and wrong.parts == {"right": 0.0, "readable": 1.0}
    assert isinstance(right, Graded) and right.parts == {"right": 1.0, "readable": 1.0}


def test_several_references_are_alternatives() -> None:
    assert scores({"task": "gsm8k"}, Item("?", ("#### 5", "#### 6", "#### 7"), ("5", "so #### 7"))) == [[1, 0, 1]]


def test_a_form_is_given_in_the_config_alone() -> None:
    config = {"task": {"form": "tag", "options": ["Yes", "No"], "ignore_case": True}}
    assert scores(config, Item("?", ("<answer>YES</answer>", "yes"), ("Yes",))) == [[1.0, 0.0]]


def test_a_reference_that_the_task_cannot_read_is_a_failure_that_the_check_of_data_finds_first() -> None:
    ((score,),) = scores({"task": "medqa"}, Item("?", ("<answer>A</answer>",), ("E",)))
    assert isinstance(score, RewardFailure) and "no answer that the task medqa reads" in score.message
    check = reference_check(TypeAdapter(RewardConfig).validate_python({"name": "task", "task": "medqa"}))
    assert check is not None and check("B")
    with pytest.raises(ValueError, match="no answer that the task medqa reads"):
        check("E")


def test_a_prompt_without_reference_is_a_failure() -> None:
    ((score,),) = scores({"task": "gsm8k"}, Item("?", ("#### 5",)))
    assert isinstance(score, RewardFailure) and "no reference" in score.message


USER_TASK = """
output_instruction = "Say it twice."
def read_answer(text):
    while "hang" in text: pass
    return text[: len(text) // 2] or None
def read_label(text):
    return text
def same(answer, label):
    return answer == label
wrong_reward = 0.1
"""


def test_a_file_of_yours_runs_in_a_process_that_is_killed_where_it_hangs(tmp_path: Path) -> None:
    (tmp_path / "twice.py").write_text(USER_TASK)
    config = {"task": str(tmp_path / "twice.py"), "deadline_s": 1}
    ((right, hung, wrong, empty),) = scores(config, Item("?", ("abab", "hang", "acca", ""), ("ab",)))
    assert (right, wrong, empty) == (1.0, 0.1, 0.0)
    assert isinstance(hung, RewardFailure) and hung.kind == "timeout"


def test_only_a_file_of_yours_needs_a_process(tmp_path: Path) -> None:
    (tmp_path / "twice.py").write_text(USER_TASK)
    built_in = config_from_json('{"name": "task", "task": "gsm8k"}')
    own = config_from_json(f'{{"name": "task", "task": "{tmp_path}/twice.py"}}')
    assert is_quick(built_in) and not is_quick(own)
    assert config_from_json(own.model_dump_json()) == own
    form = TypeAdapter(RewardConfig).validate_python({"name": "task", "task": {"form": "hash"}})
    assert config_from_json(form.model_dump_json()) == form


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "Field required"),
        ({"task": "gsm"}, "did you mean 'gsm8k'"),
        ({"task": {"form": "tags"}}, "'hash', 'boxed', 'tag', 'exact' or 'numeric'"),
        ({"task": "gsm8k", "values": "test"}, "'train' or 'validation'"),
        ({"task": "gsm8k", "wrong_reward": 1}, "less than 1"),
        ({"task": "gsm8k", "valid": True}, "Extra inputs"),
    ],
)
def test_a_wrong_config_is_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TypeAdapter(RewardConfig).validate_python({"name": "task"} | config)
