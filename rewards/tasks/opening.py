"""Opens a task: from a built-in name, a form, or a user's file or folder.

Given the config, gives the `Task`: in place where it is ours, in a killable process where the code is a user's.
"""

from __future__ import annotations

from raylign.rewards.tasks.built_in import BUILT_IN
from raylign.rewards.tasks.config import TaskConfig
from raylign.rewards.tasks.forms import AnswerForm, FormTask
from raylign.rewards.tasks.killable import KillableTask
from raylign.rewards.tasks.task import Task


def open_task(task: str | AnswerForm | TaskConfig) -> Task:
    """ValueError says what is wrong with a user's file. To be closed."""
    config = task if isinstance(task, TaskConfig) else TaskConfig(task=task)
    return KillableTask(config) if config.needs_process else form_task(config)


def form_task(config: TaskConfig) -> FormTask:
    """A task that needs no process."""
    if isinstance(config.task, AnswerForm):
        task = FormTask(config.task)
    else:
        task = FormTask(BUILT_IN[config.task], config.task)
    if config.wrong_reward is not None:
        task.wrong_reward = config.wrong_reward
    return task
