"""Tasks in a user's own code: one file or the original's folder, and every way in which they go wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from raylign.rewards.tasks.config import TaskConfig
from raylign.rewards.tasks.killable import TaskFailed
from raylign.rewards.tasks.opening import open_task
from raylign.rewards.tasks.task import Task, Verdict

GOOD = """
import re
input_instruction = "A colour."
wrong_reward = 0.2

def output_instruction():
    return "End with colour: and its name."

def read_answer(text):
    found = re.search(r"colour: (\\w+)", text)
    return found[1] if found else None

def read_label(text):
    return read_answer(text) or text.strip() or None

def same(answer, label):
    return answer.lower() == label.lower()
"""
FOLDER = {
    "get_input_instruction": "return None",
    "get_output_instruction": "return 'End with = and the number.'",
    "process_prediction": "return float(text.rpartition('=')[2]) if '=' in text else None",
    "process_label": "return float(text)",
    "eval_function": "return abs(text - label) < 1e-3",
}


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Task]:
    task = open_task(write(tmp_path_factory.mktemp("task") / "colours.py", GOOD))
    yield task
    task.close()


def test_a_file_is_a_task(colours: Task) -> None:
    assert colours.input_instruction == "A colour." and colours.wrong_reward == 0.2
    assert colours.output_instruction == "End with colour: and its name."
    replies = ["colour: Red", "colour: green", "no"]
    assert colours.read_answers(replies) == ["Red", "green", None]
    assert colours.read_labels(["red", "colour: blue", " "]) == ["red", "blue", None]
    assert colours.judge(replies, ["red"] * 3) == [Verdict("Red", True), Verdict("green"), Verdict(None)]
    assert colours.same("RED", "red") and not colours.same("red", "blue")
    assert [colours.reward(verdict, True) for verdict in colours.judge(replies, ["red"] * 3)] == [1, 0.2, 0]


def test_thousands_of_replies_go_there_in_chunks(colours: Task) -> None:
    replies = [f"{'x ' * 50} colour: c{number}" for number in range(5_000)]
    verdicts = colours.judge(replies, [f"C{number}" for number in range(5_000)])
    assert all(verdict.is_right for verdict in verdicts)


def test_the_folder_of_the_original_is_a_task_and_its_numbers_stay_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "sums"
    folder.mkdir()
    for name, body in FOLDER.items():
        parameters = "text, label" if name == "eval_function" else "" if name.startswith("get") else "text"
        (folder / f"{name}.py").write_text(f"def {name}({parameters}):\n    {body}\n")
    task = open_task(str(folder))
    try:
        assert task.input_instruction is None and task.output_instruction == "End with = and the number."
        assert task.judge(["1+1 = 2.0000", "= 3", "?"], ["2"] * 3) == [
            Verdict("2.0", True),
            Verdict("3.0"),
            Verdict(None),
        ]
    finally:
        task.close()
    (folder / "eval_function.py").write_text("def evaluate(text, label):\n    return True\n")
    with pytest.raises(ValueError, match=r"eval_function\.py has no function eval_function"):
        open_task(str(folder))
    (folder / "process_label.py").unlink()
    with pytest.raises(ValueError, match=r"task folder .* has no process_label\.py; it needs the original's files"):
        open_task(str(folder))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            GOOD.replace("def same", "def equal"),
            "has no same; a task needs output_instruction, read_answer, read_label",
        ),
        (GOOD.replace("def read", "def parse"), "has no read_answer and no read_label"),
        (GOOD + "\nsame = 3\n", "same is int, expected a function"),
        (GOOD.replace('return "End', "return len('')  #"), "output_instruction gives int, expected a text"),
        (GOOD.replace('"End with colour: and its name."', "''"), "output_instruction is empty"),
        (GOOD.replace("0.2", "'little'"), "wrong_reward is 'little', expected a number from 0 to below 1"),
        ("import nothing_of_this_name\n", "does not import: ModuleNotFoundError"),
        ("def (:\n", "does not import: SyntaxError"),
        ("import sys\nsys.exit(3)\n", "does not import: SystemExit: 3"),
    ],
)
def test_a_file_that_is_no_task_is_refused_with_what_it_lacks(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        open_task(write(tmp_path / "mine.py", text))


def test_a_folder_is_told_from_a_name_by_its_looks_once_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sums").mkdir()
    (tmp_path / "gsm8k").mkdir()
    assert TaskConfig(task="sums").task == "./sums" and TaskConfig(task="sums").needs_process
    assert not TaskConfig(task="gsm8k").needs_process and TaskConfig(task="./gsm8k").needs_process


def test_a_task_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"did you mean 'gsm8k'\? known: gsm8k, math, .*; a task of yours is a Python"):
        TaskConfig(task="gsm8")
    with pytest.raises(ValueError, match=r"no file .*absent\.py"):
        open_task(str(tmp_path / "absent.py"))


def test_a_task_that_hangs_is_refused_before_anything_is_spent(tmp_path: Path) -> None:
    hangs = GOOD.replace("    found =", "    while True: pass\n    found =")
    config = TaskConfig(task=write(tmp_path / "mine.py", hangs), deadline_s=0.5)
    with pytest.raises(TaskFailed, match=r"mine\.py: read_answer failed on .*: no reply within 0\.5 s \(deadline_s\)"):
        open_task(config)


def test_one_text_that_hangs_or_kills_costs_no_other(tmp_path: Path) -> None:
    bad = GOOD.replace(
        "    found =", "    while 'hang' in text: pass\n    if 'die' in text: __import__('os')._exit(3)\n    found ="
    )
    task = open_task(TaskConfig(task=write(tmp_path / "mine.py", bad), deadline_s=1))
    try:
        replies = ["colour: red", "hang", "colour: blue", "die", "colour: green"]
        assert task.read_answers(replies) == ["red", None, "blue", None, "green"]
        assert dict(task.failures) == {"timeout": 1, "crash": 1}  # type: ignore[attr-defined]
    finally:
        task.close()


def test_a_reader_that_always_fails_ends_the_work_with_its_place(tmp_path: Path) -> None:
    raises = GOOD.replace("    found =", "    text.no_such_method()\n    found =")
    task = open_task(write(tmp_path / "mine.py", raises))
    try:
        with pytest.raises(
            TaskFailed, match=r"mine\.py: read_answer failed on 'five': AttributeError.*5th text in a row"
        ):
            task.read_answers(["one", "two", "three", "four", "five", "six"])
    finally:
        task.close()


def test_an_answer_of_a_strange_kind_is_a_failure_of_that_text(tmp_path: Path) -> None:
    strange = GOOD.replace("return found[1] if found else None", "return [text] if 'list' in text else text")
    task = open_task(write(tmp_path / "mine.py", strange))
    try:
        assert task.read_answers(["a list", "a text"]) == [None, "a text"]
    finally:
        task.close()
