"""The reward `task`: what a reply is worth for a task, built in, a user's own, or by configuration alone.

Given `{name: task, task: gsm8k}`, a path, or `{form: tag, options: [A, B]}`; gives the values that are checked before
anything starts. Only a user's own code needs a process of its own.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from raylign.rewards.base import KillableConfig
from raylign.rewards.tasks.built_in import BUILT_IN
from raylign.rewards.tasks.forms import AnswerForm


def is_path(task: str) -> bool:
    """Whether a task is a user's file or folder and no built-in name."""
    return task not in BUILT_IN and (task.endswith(".py") or "/" in task)


def _checked(task: str | AnswerForm) -> str | AnswerForm:
    if isinstance(task, str) and task not in BUILT_IN and not is_path(task) and Path(task).is_dir():
        return f"./{task}"  # a path by its looks alone, wherever it is read
    if isinstance(task, str) and task not in BUILT_IN and not is_path(task):
        nearest = difflib.get_close_matches(task, BUILT_IN, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise ValueError(
            f"unknown task {task!r}; {hint}known: {', '.join(BUILT_IN)}; a task of yours is a Python file "
            "(tasks/mine.py), a folder, or {form: …}"
        )
    return task


AnyTask = Annotated[str | AnswerForm, AfterValidator(_checked)]
"""A built-in name, a path, or a form."""


class TaskConfig(KillableConfig):
    """1 for an answer that is right for the task, read strictly from the reply alone; a readable wrong one may earn
    a little in training."""

    name: Literal["task"] = "task"
    """Which reward."""
    task: AnyTask
    """Built in: gsm8k, math, logiqa, mednli, medqa, cqa, cfa, gpqa, medmcqa, pubmedqa; a Python file or a folder of
    yours; or a form: {form: hash|boxed|tag|exact|numeric, options: […], ignore_case: …}."""
    values: Literal["train", "validation"] = "train"
    """train: a readable but wrong answer earns the task's `wrong_reward`; validation: 0."""
    wrong_reward: float | None = Field(None, ge=0, lt=1)
    """What a readable but wrong answer earns in training, in place of the task's own number."""

    @property
    def needs_process(self) -> bool:
        return isinstance(self.task, str) and is_path(self.task)


def task_label(task: Any) -> str:
    """How messages name it."""
    return task if isinstance(task, str) else f"of form {task.form}"
