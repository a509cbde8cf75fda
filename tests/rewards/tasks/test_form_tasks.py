"""Tasks without code: acceptance 6 and 7 with their texts, every form, and labels in every dress."""

from __future__ import annotations

import time

import pytest
from pydantic import ValidationError

from raylign.rewards.tasks.built_in import BUILT_IN
from raylign.rewards.tasks.forms import AnswerForm, FormTask
from raylign.rewards.tasks.latex import plain_mathematics
from raylign.rewards.tasks.opening import open_task


def training(task: str | AnswerForm, reply: str, label: str) -> float:
    opened = open_task(task)
    return opened.reward(opened.judge([reply], [label])[0], is_training=True)


@pytest.mark.parametrize(
    ("reply", "label", "reward"),
    [
        ("so #### 72", "72", 1),
        ("#### 1,234.50 then #### 12", "12", 1),
        ("#### 72.0004", "72", 1),
        ("#### 72.002", "72", 0),
        ("####72", "72", 0),
        ("#### $72", "72", 0),
        ("#### 72.", "72", 1),
        ("the answer is 72", "72", 0),
        ("#### -3", "Lost three.\n#### -3", 1),
        ("#### 1,234.50", "so #### 1234.5", 1),
        ("#### 5 or #### none", "5", 1),
        ("##### 5", "5", 1),
        ("#### .5", "0.5", 1),
        ("#### ,", "0", 0),
        ("#### 1.2.3", "1", 0),
        ("#### ٧٢", "72", 0),
    ],
)
def test_the_number_after_four_hashes_is_read_strictly(reply: str, label: str, reward: float) -> None:
    assert training("gsm8k", reply, label) == reward


@pytest.mark.parametrize(
    ("reply", "in_training", "in_validation"),
    [
        ("<think>x</think> <answer> C </answer>", 1, 1),
        ("<answer>A</answer> no, <answer>C</answer>", 1, 1),
        ("<answer>option C</answer>", 0.1, 0),
        ("C", 0, 0),
        ("<answer>\nC\n</answer>", 1, 1),
        ("<answer></answer>", 0, 0),
        ("<answer>C", 0, 0),
        ("<answer>c</answer>", 0.1, 0),
    ],
)
def test_a_readable_tag_earns_a_little_in_training_only(reply: str, in_training: float, in_validation: float) -> None:
    task = open_task("logiqa")
    (verdict,) = task.judge([reply], ["<think>because</think> <answer>C</answer>"])
    assert (task.reward(verdict, True), task.reward(verdict, False)) == (in_training, in_validation)


@pytest.mark.parametrize(
    "label", ["C", " (C) ", "C. Paris", "option C", "<answer>C</answer>", "<answer>(C) x</answer>", "C) A, or D"]
)
def test_labels_of_options_come_in_any_dress(label: str) -> None:
    assert open_task("medqa").read_label(label) == "C"


@pytest.mark.parametrize("label", ["E", "", "Paris", "A or B"])
def test_a_label_that_is_no_option_is_refused(label: str) -> None:
    task = open_task("medqa")
    assert task.read_label(label) is None
    with pytest.raises(ValueError, match="holds no answer that the task medqa reads"):
        task.judge(["<answer>C</answer>"], [label])


def test_votes_are_answers_that_can_be_labels() -> None:
    replies = ["<answer>C</answer>", "<answer>option C</answer>", "<answer>E</answer>", "C", "none"]
    assert open_task("medqa").read_votes(replies) == ["C", "C", None, None, None]
    assert open_task("gsm8k").read_votes(["#### 1,000", "#### 1000.0", "1000"]) == ["1000", "1000", None]


def test_case_matters_only_where_the_task_says_so() -> None:
    assert training("mednli", "<answer>Entailment</answer>", "entailment") == 1
    assert training("pubmedqa", "<answer>YES</answer>", "yes") == 1
    assert training("cqa", "<answer>yes</answer>", "Yes") == 0.1
    assert open_task("mednli").read_answers(["<answer>Neutral</answer>", "<answer>neutral</answer>"]) == ["neutral"] * 2


@pytest.mark.parametrize(
    ("reply", "label", "reward"),
    [
        (r"so \boxed{\dfrac{1}{2}}", r"\boxed{\frac12}", 1),
        (r"\boxed{1/2}", r"\frac{1}{2}", 1),
        (r"\boxed{\text{(A)}}", "(A)", 1),
        (r"\boxed{x=5}", "5", 1),
        (r"\boxed{1{,}234}", "1234", 1),
        (r"\boxed{90^\circ}", "90", 1),
        (r"\boxed{12\text{ cm}^2}", "12", 1),
        (r"\boxed{\$0.50}", "0.5", 1),
        (r"\boxed{\left( 3, \frac{\pi}{2} \right)}", r"(3,\frac{\pi}{2})", 1),
        (r"\boxed{3} and then \boxed{4}", "4", 1),
        (r"\boxed{2\sqrt3}", r"2\sqrt{3}", 1),
        (r"\boxed{12}", "21", 0),
        (r"\boxed{}", "", 0),
        ("12", "12", 0),
    ],
)
def test_boxes_are_compared_in_one_way_of_writing(reply: str, label: str, reward: float) -> None:
    task = open_task("math")
    if label:
        assert training("math", reply, label) == reward
    else:  # nothing on either side is no equality
        assert (task.read_answer(reply), task.read_label(label)) == (None, None)


def test_different_answers_stay_different_in_plain_mathematics() -> None:
    texts = ["12", "1.2", "-12", "1/2", "2/1", "x+1", "x-1", r"\sqrt{2}", "(1,2)", "[1,2]", "12,5", "1205"]
    assert len({plain_mathematics(text) for text in texts}) == len(texts)


def test_the_other_forms_read_what_they_say() -> None:
    exact = AnswerForm(form="exact", options=("Yes", "No"), ignore_case=True)
    assert training(exact, " yes\n", "Yes") == 1 and training(exact, "yes, surely", "Yes") == 0
    numeric = AnswerForm(form="numeric")
    assert training(numeric, "2 + 3 = 5, so the answer is 5.", "5") == 1
    assert training(numeric, "we get 1/3", "It is 1/3") == 1 and training(numeric, "no idea", "5") == 0
    assert FormTask(numeric).read_answers(["it is 0.5", "it is 1/2"]) == ["1/2", "1/2"]
    boxed_letter = AnswerForm(form="boxed", options=("A", "B"))
    assert training(boxed_letter, r"\boxed{B}", "(B)") == 1
    hash_word = AnswerForm(form="hash", options=("yes", "no"))
    assert training(hash_word, "#### yes\nmore", "#### yes") == 1 and training(hash_word, "####yes", "yes") == 0
    assert training(AnswerForm(form="tag", tag="label", wrong_reward=0.25), "<label>x</label>", "y") == 0.25


@pytest.mark.parametrize("name", BUILT_IN)
def test_instructions_are_no_answers_themselves(name: str) -> None:
    """A model that repeats its instruction has not answered."""
    task = open_task(name)
    assert task.output_instruction and task.input_instruction
    assert task.read_answer(task.output_instruction) is None
    assert task.prompt("1+1?") == f"1+1? {task.output_instruction}"


@pytest.mark.parametrize("form", ["hash", "boxed", "tag", "exact"])
def test_instructions_name_the_options(form: str) -> None:
    words = FormTask(AnswerForm.model_validate({"form": form, "options": ["red", "green", "blue"]})).output_instruction
    assert "red, green or blue" in words


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"form": "numeric", "options": ["1", "2"]}, "form numeric reads numbers"),
        ({"form": "tag", "options": ["A"]}, "at least two different answers"),
        ({"form": "tag", "options": ["a", "A"], "ignore_case": True}, "at least two different answers"),
        ({"form": "tag", "options": ["A", " B"]}, "without spaces around"),
        ({"form": "hashes"}, "'hash', 'boxed', 'tag', 'exact' or 'numeric'"),
        ({"form": "tag", "case": False}, "Extra inputs are not permitted"),
        ({"form": "tag", "wrong_reward": 1.0}, "less than 1"),
    ],
)
def test_a_form_that_cannot_be_meant_is_refused(keys: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        AnswerForm.model_validate(keys)


@pytest.mark.parametrize("piece", ["#### ", "####", "<answer>", "</answer>", r"\boxed{", "#### 1 ", r"\text{", "1 "])
def test_a_long_reply_costs_little_whatever_it_repeats(piece: str) -> None:
    tasks = [open_task(name) for name in ("gsm8k", "math", "logiqa")] + [FormTask(AnswerForm(form="numeric"))]
    began = time.process_time()
    for task in tasks:
        task.read_answers([piece * 30_000, "\\boxed{" + piece * 10_000 + "}"])
    assert time.process_time() - began < 4


def test_thousands_of_replies_are_read_fast() -> None:
    task = open_task("gsm8k")
    replies = [f"First we add.\nThen we get {number}.\n#### {number}" for number in range(20_000)]
    began = time.process_time()
    verdicts = task.judge(replies, [str(number) for number in range(20_000)])
    assert all(verdict.is_right for verdict in verdicts) and time.process_time() - began < 2
