"""The reward `task`: each completion judged by the task against the best of its references, the prompt unseen.

Given groups, gives 1 for a right answer, in training the task's `wrong_reward` for a readable wrong one, else 0. The
shares of right and of readable answers become metrics (`reward/task/right/mean`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from raylign.rewards.base import Graded, Item, PointwiseReward
from raylign.rewards.sandbox.questions import Answers, Question, Value
from raylign.rewards.tasks.config import TaskConfig
from raylign.rewards.tasks.opening import form_task
from raylign.rewards.tasks.plug_in import PlugIn


class TaskReward(PointwiseReward, Answers):
    """Reads the response only: an example of the form in the prompt earns nothing."""

    can_hang = True
    is_quick = True

    def __init__(self, config: TaskConfig) -> None:
        self._is_training = config.values == "train"
        self._plug_in: PlugIn | None = None
        self._verdict: Callable[[str, str], tuple[str | None, bool]]
        if config.needs_process:
            self._plug_in = PlugIn(str(config.task))
            self._verdict, wrong_reward = self._plug_in.verdict, self._plug_in.wrong_reward
            self.form = f"a task of yours: {config.task}"
        else:
            task = form_task(config)
            self._verdict, wrong_reward = task.verdict, task.wrong_reward
        self._wrong_reward = wrong_reward if config.wrong_reward is None else config.wrong_reward

    def score_one(self, completion: str, item: Item, index: int) -> float:
        if not item.references:
            raise ValueError("the prompt has no reference to compare with; set data.reference")
        verdicts = [self._verdict(completion, reference) for reference in item.references]
        is_right = any(right for _, right in verdicts)
        is_readable = verdicts[0][0] is not None
        score = 1.0 if is_right else self._wrong_reward if self._is_training and is_readable else 0.0
        return Graded.of(score, {"right": is_right, "readable": is_readable})

    def answer(self, question: Question) -> Sequence[Value]:
        assert self._plug_in is not None, "only a task of a user's own is asked"
        return self._plug_in.answer(question)
