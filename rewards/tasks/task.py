"""What a task is: instructions, how an answer is read from a reply, how a label is read, and when both are the same.

Given replies and labels, both as whole texts, a `Task` gives what it reads in them and a `Verdict` for each pair. It
works on many texts at once; texts of a user's own task are read in a killable process (rewards/tasks/killable.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """What a reply is worth against its label.

    Verdict(answer="option C", is_right=False)
    """

    answer: str | None
    """As the task reads it; None: the reply holds no readable answer."""
    is_right: bool = False


class Task(ABC):
    """The answers of one task."""

    name: str
    input_instruction: str | None
    """How an input looks, for those who write rows; None: nothing is said about it."""
    output_instruction: str
    """How a reply has to look; follows the input in every prompt."""
    wrong_reward: float
    """What a readable but wrong answer earns in training; 0 in validation."""

    @abstractmethod
    def read_answers(self, replies: Sequence[str]) -> list[str | None]:
        """The answer in each reply; None where there is none. Equal answers are equal texts."""

    @abstractmethod
    def read_labels(self, texts: Sequence[str]) -> list[str | None]:
        """The label in each text: a reply that is right, or the bare answer; None where there is none."""

    @abstractmethod
    def judge(self, replies: Sequence[str], labels: Sequence[str]) -> list[Verdict]:
        """Each reply against the text of its label. ValueError for a text that holds no label."""

    @abstractmethod
    def same(self, answer: str, label: str) -> bool:
        """Whether an answer that was read is the label that was read."""

    def read_votes(self, replies: Sequence[str]) -> list[str | None]:
        """What each reply votes for as a label; None where it holds no answer, or one that is no label: its text could
        not become the label of a row."""
        labels = self.read_labels(replies)
        answers = self.read_answers(replies)
        return [label if answer is not None else None for label, answer in zip(labels, answers, strict=True)]

    def read_answer(self, reply: str) -> str | None:
        return self.read_answers([reply])[0]

    def read_label(self, text: str) -> str | None:
        return self.read_labels([text])[0]

    def prompt(self, text: str) -> str:
        """What a model is asked: the input, a space, the output instruction."""
        return f"{text} {self.output_instruction}"

    def reward(self, verdict: Verdict, is_training: bool) -> float:
        """1 for a right answer; in training `wrong_reward` for a readable wrong one; else 0."""
        if verdict.is_right:
            return 1.0
        return self.wrong_reward if is_training and verdict.answer is not None else 0.0

    def close(self) -> None:  # noqa: B027  most tasks hold nothing
        """Release processes."""


def checked_label(task: Task, text: str) -> str:
    """The label in a text; ValueError where there is none."""
    if (label := task.read_label(text)) is None:
        raise unreadable_label(task.name, text)
    return label


def unreadable_label(task: str, text: str) -> ValueError:
    """What is wrong with a label that the task cannot read."""
    return ValueError(f"label {text[-80:]!r} holds no answer that the task {task} reads")
