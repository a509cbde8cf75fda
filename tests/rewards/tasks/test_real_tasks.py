"""The built-in tasks on human-written rows: each label is read, a right reply earns 1 and every wrong one no 1.

Data sets that may be had are read from the data folder (RAYLIGN_DATA, or `shared/data` beside the clone); for math,
mednli and cfa there are rows written by hand.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raylign.rewards.tasks.opening import open_task

DATA = Path(os.environ.get("RAYLIGN_DATA", Path(__file__).resolve().parents[4] / "shared/data"))
needs_data = pytest.mark.skipif(not (DATA / "gsm8k").is_dir(), reason="no data folder (RAYLIGN_DATA)")


def rows(file: str) -> list[dict[str, Any]]:
    content = (DATA / file).read_bytes()
    text = (gzip.decompress(content) if file.endswith(".gz") else content).decode()
    return [json.loads(line) for line in text.split("\n") if line.strip()]


LABELS: dict[str, tuple[str, str, int, Callable[[dict[str, Any]], str]]] = {
    "logiqa": ("logiqa2/logiqa2.jsonl.gz", "ABCD", 1569, lambda row: "ABCD"[row["answer"]]),
    "medqa": ("medqa/medqa_us4.jsonl", "ABCD", 866, lambda row: f"{row['answer_idx']}. {row['answer']}"),
    "medmcqa": ("medmcqa/medmcqa.jsonl", "ABCD", 1421, lambda row: f"({'ABCD'[row['cop'] - 1]})"),
    "gpqa": ("mmlu_stem/mmlu_stem.jsonl", "ABCD", 2095, lambda row: "ABCD"[row["answer"]]),
}
WORDS: dict[str, tuple[str, tuple[str, ...], int, str]] = {
    "pubmedqa": ("pubmedqa/pubmedqa.jsonl", ("yes", "no", "maybe"), 344, "final_decision"),
    "cqa": ("consumer_contracts_qa/cqa.jsonl", ("Yes", "No"), 282, "answer"),
}


def judged(name: str, options: tuple[str, ...] | str, labels: list[str], right: list[str]) -> None:
    """Every option as the reply of every row: 1 for the right one, 0.1 in training for the others."""
    task = open_task(name)
    assert task.read_labels(labels) == right
    for option in options:
        replies = [f"<think>maybe {options[0]}</think>\n<answer> {option} </answer>"] * len(labels)
        verdicts = task.judge(replies, labels)
        assert [verdict.is_right for verdict in verdicts] == [option == answer for answer in right]
        assert {task.reward(verdict, True) for verdict in verdicts} <= {0.1, 1.0}
        bare = task.judge([option] * len(labels), labels)
        assert not any(task.reward(verdict, True) for verdict in bare)


@pytest.mark.parametrize("name", LABELS, ids=str)
@pytest.mark.real_data
@needs_data
def test_letters_of_real_questions_are_read_and_judged(name: str) -> None:
    file, options, num_rows, label = LABELS[name]
    labels = [label(row) for row in rows(file)]
    assert len(labels) == num_rows
    judged(name, options, labels, [text.lstrip("(")[0] for text in labels])


@pytest.mark.parametrize("name", WORDS, ids=str)
@pytest.mark.real_data
@needs_data
def test_words_of_real_questions_are_read_and_judged(name: str) -> None:
    file, options, num_rows, column = WORDS[name]
    labels = [row[column] for row in rows(file)]
    assert len(labels) == num_rows
    judged(name, options, labels, labels)


@pytest.mark.real_data
@needs_data
def test_solutions_of_gsm8k_are_their_own_labels_and_no_other_row_s() -> None:
    task = open_task("gsm8k")
    solutions = [row["answer"] for row in rows("gsm8k/train.jsonl.gz")]
    bare = [solution.rpartition("#### ")[2] for solution in solutions]
    assert task.read_answers(solutions) == task.read_labels(solutions) == task.read_labels(bare)
    assert all(verdict.is_right for verdict in task.judge(solutions, bare))
    moved = [*bare[1:], bare[0]]
    for verdict, own, other in zip(task.judge(solutions, moved), bare, moved, strict=True):
        assert verdict.is_right == (float(own.replace(",", "")) == float(other.replace(",", "")))
    assert task.read_answers([solution.replace("#### ", "The answer is ") for solution in solutions]) == [None] * 7473


@pytest.mark.real_data
@needs_data
def test_real_solutions_of_models_are_judged_as_they_were_labelled() -> None:
    task = open_task("gsm8k")
    num_judged = 0
    for row in rows("gsm8k/model_solutions.jsonl.gz"):
        label = row["ground_truth"].replace("\nA: ", "\n#### ")
        for solver in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"):
            reply = row[solver]["solution"].replace("\nA: ", "\n#### ")
            if task.read_answer(reply) is not None:
                (verdict,) = task.judge([reply], [label])
                assert verdict.is_right == row[solver]["is_correct"]
                num_judged += 1
    assert num_judged > 2500


@pytest.mark.parametrize(
    ("solution", "wrong"),
    [
        (r"We solve $x^2=9$ for $x>0$, so $x=\boxed{3}$.", r"\boxed{-3}"),
        (r"The slope is $\frac{6-2}{3-0}=\boxed{\frac{4}{3}}$.", r"\boxed{\frac34 }"),
        (r"It is the interval $\boxed{(-\infty,2]}$.", r"\boxed{(-\infty,2)}"),
        (r"The angle is $\boxed{45^\circ}$.", r"\boxed{54^\circ}"),
        (r"So she pays $\boxed{\$1{,}250}$.", r"\boxed{125}"),
        (r"The roots are $\boxed{1 \pm \sqrt{2}}$.", r"\boxed{1\pm\sqrt3}"),
        (r"As a matrix: $\boxed{\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}}$.", r"\boxed{1234}"),
        (r"Hence \boxed{\text{Tuesday}}.", r"\boxed{\text{Thursday}}"),
    ],
)
def test_competition_problems_are_judged_by_their_box(solution: str, wrong: str) -> None:
    task = open_task("math")
    content = solution[solution.index("{") + 1 : solution.rindex("}")]
    assert [verdict.is_right for verdict in task.judge([solution, wrong, content], [solution] * 3)] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("label", ["entailment", "Contradiction", "NEUTRAL", "<answer>neutral</answer>"])
def test_inferences_of_clinical_notes_are_judged_in_any_case(label: str) -> None:
    right = label.removeprefix("<answer>").removesuffix("</answer>").lower()
    judged("mednli", ("entailment", "contradiction", "neutral"), [label], [right])


@pytest.mark.parametrize("label", ["A", "B. An inverted yield curve", "(C)"])
def test_questions_of_analysts_are_judged_by_their_letter(label: str) -> None:
    judged("cfa", "ABC", [label], [label.strip("()")[0]])
