"""A task in a user's own code, in its killable process: one Python file, or a folder of the original program's files.

A file has `output_instruction` (a text, or a function that gives one), `read_answer(text)`, `read_label(text)` and
`same(answer, label)`; where it wants, `input_instruction` and `wrong_reward`. A folder has one file for each function
of the original, named like it. What is missing, or gives back the wrong kind of value, is said with its place.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from raylign.rewards.base import failure_of
from raylign.rewards.function import import_file
from raylign.rewards.sandbox.questions import Question, Value
from raylign.rewards.tasks.task import unreadable_label

OF_FILE = ("output_instruction", "read_answer", "read_label", "same")
OF_FOLDER = {
    "input_instruction": "get_input_instruction",
    "output_instruction": "get_output_instruction",
    "read_answer": "process_prediction",
    "read_label": "process_label",
    "same": "eval_function",
}
"""Our names to those of the original; its `process_and_save_dataset` writes files that nobody here reads."""


class PlugIn:
    """The functions of a user's task. What they give is kept as it is between them, so numbers may stay numbers."""

    def __init__(self, path: str) -> None:
        self.path = path
        found = _of_folder(path) if Path(path).expanduser().is_dir() else _of_file(path)
        self._read_answer: Callable[[str], Any] = found["read_answer"]
        self._read_label: Callable[[str], Any] = found["read_label"]
        self._same: Callable[[Any, Any], Any] = found["same"]
        self.input_instruction = _instruction(found, "input_instruction", path)
        instruction = _instruction(found, "output_instruction", path)
        if not instruction:
            raise ValueError(f"task {path}: output_instruction is empty, so no model would know how to answer")
        self.output_instruction = instruction
        self.wrong_reward = _wrong_reward(found.get("wrong_reward", 0.0), path)

    def verdict(self, reply: str, text: str) -> tuple[str | None, bool]:
        """Answer and truth of a reply against the text of its label."""
        if (label := self._read_label(text)) is None:
            raise unreadable_label(self.path, text)
        answer = self._read_answer(reply)
        return _as_text(answer, "read_answer"), answer is not None and bool(self._same(answer, label))

    def answer(self, question: Question) -> list[Value]:
        """See rewards/sandbox/questions.py."""
        functions: dict[str, Callable[..., Value]] = {
            "describe": self._describe,
            "answers": lambda text: _as_text(self._read_answer(text), "read_answer"),
            "labels": lambda text: _as_text(self._read_label(text), "read_label"),
            "verdicts": self.verdict,
            "same": lambda answer, label: (None, bool(self._same(answer, label))),
        }
        return [_guarded(functions[question.verb], row) for row in question.rows]

    def _describe(self, part: str) -> str | None:
        value = getattr(self, part)
        return None if value is None else str(value)


def _guarded(function: Callable[..., Value], row: Sequence[str]) -> Value:
    try:
        return function(*row)
    except Exception as error:  # one text may not cost the others
        return failure_of(error)


def _of_file(path: str) -> dict[str, Any]:
    module, _ = import_file(path)
    missing = [name for name in OF_FILE if not hasattr(module, name)]
    if missing:
        has = [name for name, value in vars(module).items() if inspect.isfunction(value)]
        raise ValueError(
            f"task file {path} has no {' and no '.join(missing)}; a task needs {', '.join(OF_FILE)}; "
            f"it has: {', '.join(has) or 'no function'}"
        )
    found = {
        name: getattr(module, name) for name in (*OF_FILE, "input_instruction", "wrong_reward") if hasattr(module, name)
    }
    return _with_functions(found, path, {name: name for name in OF_FILE})


def _of_folder(path: str) -> dict[str, Any]:
    folder = Path(path).expanduser()
    missing = [f"{name}.py" for name in OF_FOLDER.values() if not (folder / f"{name}.py").is_file()]
    if missing:
        raise ValueError(
            f"task folder {path} has no {' and no '.join(missing)}; it needs the original's files "
            f"{', '.join(f'{name}.py' for name in OF_FOLDER.values())}, or use one Python file"
        )
    found = {}
    for ours, theirs in OF_FOLDER.items():
        module, file = import_file(str(folder / f"{theirs}.py"))
        if not hasattr(module, theirs):
            raise ValueError(f"task file {file} has no function {theirs}")
        found[ours] = getattr(module, theirs)
    return _with_functions(found, path, OF_FOLDER)


def _with_functions(found: dict[str, Any], path: str, names: dict[str, str]) -> dict[str, Any]:
    for name in ("read_answer", "read_label", "same"):
        if not callable(found[name]):
            raise ValueError(f"task {path}: {names[name]} is {type(found[name]).__name__}, expected a function")
    return found


def _instruction(found: dict[str, Any], name: str, path: str) -> str | None:
    value = found.get(name)
    value = value() if callable(value) else value
    if value is not None and not isinstance(value, str):
        raise ValueError(f"task {path}: {name} gives {type(value).__name__}, expected a text")
    return value or None


def _wrong_reward(value: Any, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"task {path}: wrong_reward is {value!r}, expected a number from 0 to below 1")
    return float(value)


def _as_text(value: Any, function: str) -> str | None:
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, int | float):
        return str(value)
    raise TypeError(f"{function} gave {type(value).__name__}, expected a text, a number or None")
