r"""Tasks by configuration alone: a form, its options, and nothing to write in Python.

Given `{form: tag, options: [A, B, C, D]}`, gives the task whose replies end in one of these between tags. The built-in
tasks are such configurations (rewards/tasks/built_in.py). All readings are linear in the text and run in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal, Self

from pydantic import BaseModel, Field, model_validator

from raylign.rewards.tasks import readings
from raylign.rewards.tasks.task import Task, Verdict, unreadable_label

FormName = Literal["hash", "boxed", "tag", "exact", "numeric"]
READABLE_TAG_REWARD = 0.1


class AnswerForm(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """The form of a task's answers."""

    form: FormName
    r"""Where the answer stands: hash (`#### 72`), boxed (`\boxed{…}`), tag (`<answer>…</answer>`), exact (it is the
    whole reply), numeric (the number that the reply gives as its answer, marked or not)."""
    options: tuple[str, ...] | None = None
    """The answers that there are: letters or words; null: any."""
    ignore_case: bool = False
    """Compare without regard to upper and lower case."""
    tag: str = Field("answer", pattern=r"^\w+$")
    """Name of the tag, without angle brackets."""
    tolerance: float = Field(0.001, ge=0, allow_inf_nan=False)
    """hash and numeric without options: numbers that differ by less are equal."""
    input_instruction: str | None = None
    """How an input looks, for the model that writes rows; null: nothing is said about it."""
    output_instruction: str | None = None
    """How a reply has to look; null: words of ours for this form."""
    wrong_reward: float | None = Field(None, ge=0, lt=1)
    """What a readable but wrong answer earns in training; null: 0.1 for tags, 0 for the others."""

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        if self.options is None:
            return self
        if self.form == "numeric":
            raise ValueError(
                "form numeric reads numbers and has no options: use hash, boxed, tag or exact with options"
            )
        texts = [option.casefold() if self.ignore_case else option for option in self.options]
        if len(set(texts)) < max(2, len(texts)) or not all(text.strip() == text and text for text in texts):
            raise ValueError(
                f"options {list(self.options)} must be at least two different answers without spaces around"
            )
        return self


def instruction_for(form: AnswerForm) -> str:
    """Words of ours. They hold no answer in the form that they ask for, so that repeating them earns nothing."""
    what = "the final answer"
    if form.options is not None:
        are_letters = all(len(option) == 1 for option in form.options)
        listed = f"{', '.join(form.options[:-1])} or {form.options[-1]}"
        what = f"the letter of the right option ({listed})" if are_letters else f"one of the answers {listed}"
    if form.form == "hash":
        number = what if form.options else "the final number in digits"
        return f"Reason step by step. On the last line, write four hashes (####), a space, and then {number}."
    if form.form == "boxed":
        return rf"Reason step by step, and put only {what} inside \boxed{{}}."
    if form.form == "tag":
        return (
            f"First reason inside the tag <think>. Then put only {what} inside the tag <{form.tag}>. Close both tags."
        )
    if form.form == "exact":
        return f"Reply with only {what} and nothing else."
    return "Reason step by step, and end with the final number."


class FormTask(Task):
    """The task that an `AnswerForm` describes."""

    def __init__(self, form: AnswerForm, name: str = "") -> None:
        self.name = name or f"of form {form.form}"
        self.input_instruction = form.input_instruction
        self.output_instruction = form.output_instruction or instruction_for(form)
        default = READABLE_TAG_REWARD if form.form == "tag" else 0.0
        self.wrong_reward = default if form.wrong_reward is None else form.wrong_reward
        self._form = form
        self._compares_numbers = form.options is None and form.form in ("hash", "numeric")
        self._find = _finder(form)
        self._label = lru_cache(4096)(self._find_label)

    def read_answers(self, replies: Sequence[str]) -> list[str | None]:
        return [self._answer(reply) for reply in replies]

    def read_labels(self, texts: Sequence[str]) -> list[str | None]:
        return [self._label(text) for text in texts]

    def judge(self, replies: Sequence[str], labels: Sequence[str]) -> list[Verdict]:
        return [Verdict(*self.verdict(reply, label)) for reply, label in zip(replies, labels, strict=True)]

    def same(self, answer: str, label: str) -> bool:
        if self._compares_numbers:
            return readings.same_number(answer, label, self._form.tolerance)
        return answer == label

    def verdict(self, reply: str, text: str) -> tuple[str | None, bool]:
        """Answer and truth of one reply against the text of its label."""
        if (label := self._label(text)) is None:
            raise unreadable_label(self.name, text)
        answer = self._answer(reply)
        return answer, answer is not None and self.same(answer, label)

    def _answer(self, reply: str) -> str | None:
        return self._folded(self._find(reply))

    def _folded(self, answer: str | None) -> str | None:
        return answer.casefold() if answer is not None and self._form.ignore_case else answer

    def _find_label(self, text: str) -> str | None:
        """Labels come dressed as replies are, or bare."""
        dressed = self._find(text)
        if self._form.options is not None:
            option = readings.option_in(dressed or text, self._form.options, self._form.ignore_case)
            return self._folded(option)
        return self._folded(dressed if dressed is not None else _BARE.get(self._form.form, str.strip)(text) or None)


_BARE: dict[FormName, Callable[[str], str | None]] = {
    "hash": lambda text: readings.number_text(text.strip().rstrip(".")),
    "boxed": lambda text: readings.plain_mathematics(text),
    "numeric": lambda text: None,
}


def _finder(form: AnswerForm) -> Callable[[str], str | None]:
    has_options = form.options is not None
    if form.form == "tag":
        return readings.tag_text(form.tag)
    finders: dict[FormName, Callable[[str], str | None]] = {
        "hash": readings.hash_text if has_options else readings.hash_number,
        "boxed": readings.boxed_text if has_options else readings.boxed_mathematics,
        "exact": readings.whole_text,
        "numeric": readings.last_number,
    }
    return finders[form.form]
