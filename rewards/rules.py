"""Rule rewards: exact, numeric, boxed, hash, tag, length. Cheap, linear in the text, run in place.

Given completions and references, each gives 1.0 for a right answer and 0.0 otherwise (`length`: a penalty in
[-1, 0]). Several references are alternatives: the best counts. What is compared as a quantity is compared whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Self

from pydantic import Field, model_validator

from raylign.rewards import answers
from raylign.rewards.answers import Comparison
from raylign.rewards.base import Item, PointwiseReward, WeightedConfig
from raylign.rewards.choices import choice

Kind = Literal["answer", "choice"]


class ExactConfig(WeightedConfig):
    """1 if the completion equals a reference, spaces at the ends aside."""

    name: Literal["exact"] = "exact"
    """Which reward."""
    ignore_case: bool = False
    """Compare without regard to upper and lower case."""
    kind: Kind = "answer"
    """answer: the whole text; choice: the letter of an option, however it is dressed: C, (C), C., option C."""


class NumericConfig(WeightedConfig):
    """1 if the number that the completion gives as its answer (the last one, or the marked one) is the reference's."""

    name: Literal["numeric"] = "numeric"
    """Which reward."""
    tolerance: float = Field(0.0, ge=0, allow_inf_nan=False)
    """Largest absolute difference that still counts as equal."""
    kind: Kind = "answer"
    """answer: a number; choice: the letter of an option, however it is dressed: C, (C), C., option C."""


class BoxedConfig(WeightedConfig):
    r"""1 if the last \boxed{…} in the completion holds a reference."""

    name: Literal["boxed"] = "boxed"
    """Which reward."""
    comparison: Comparison = "exact"
    """Compare as text, or as numbers: fractions, ratios, times and tuples whole and exactly."""
    tolerance: float = Field(0.0, ge=0, allow_inf_nan=False)
    """Numeric comparison: largest absolute difference that still counts as equal."""
    kind: Kind = "answer"
    """answer: by `comparison`; choice: the letter of an option, however it is dressed: C, (C), C., option C."""


class HashConfig(WeightedConfig):
    """1 if the text after the last `####` equals that of a reference (GSM8K's form)."""

    name: Literal["hash"] = "hash"
    """Which reward."""
    comparison: Comparison = "numeric"
    """Compare as text, or as numbers: fractions, ratios, times and tuples whole and exactly."""
    tolerance: float = Field(0.0, ge=0, allow_inf_nan=False)
    """Numeric comparison: largest absolute difference that still counts as equal."""
    kind: Kind = "answer"
    """answer: by `comparison`; choice: the letter of an option, however it is dressed: C, (C), C., option C."""


class TagConfig(WeightedConfig):
    """1 if the last `<tag>…</tag>` in the completion holds a reference."""

    name: Literal["tag"] = "tag"
    """Which reward."""
    tag: str = Field("answer", pattern=r"^\w+$")
    """Name of the tag, without angle brackets."""
    comparison: Comparison = "exact"
    """Compare as text, or as numbers: fractions, ratios, times and tuples whole and exactly."""
    tolerance: float = Field(0.0, ge=0, allow_inf_nan=False)
    """Numeric comparison: largest absolute difference that still counts as equal."""
    kind: Kind = "answer"
    """answer: by `comparison`; choice: the letter of an option, however it is dressed: C, (C), C., option C."""


class LengthConfig(WeightedConfig):
    """A soft penalty for long completions: 0 up to `free_tokens`, then down to -1 at `max_tokens` and beyond."""

    name: Literal["length"] = "length"
    """Which reward."""
    free_tokens: int = Field(ge=0)
    """Tokens that cost nothing."""
    max_tokens: int = Field(ge=1)
    """Tokens at which the penalty is full."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.free_tokens >= self.max_tokens:
            raise ValueError(f"free_tokens ({self.free_tokens}) must be below max_tokens ({self.max_tokens})")
        return self


class AnswerReward(PointwiseReward):
    """1 where the answer found in a completion equals any reference; 0 where none is found."""

    is_quick = True

    def __init__(
        self,
        find: Callable[[str], str | None],
        same: Callable[[str, str], bool],
        find_in_reference: Callable[[str], str | None] = lambda reference: None,
    ) -> None:
        self._find = find
        self._same = same
        self._find_in_reference = find_in_reference

    def score_one(self, completion: str, item: Item, index: int) -> float:
        if not item.references:
            raise ValueError("the prompt has no reference to compare with; set data.reference")
        # References come bare or in the same dress as completions.
        bare = [self._find_in_reference(reference) or reference for reference in item.references]
        answer = self._find(completion)
        return float(answer is not None and any(self._same(answer, reference) for reference in bare))


class ExactReward(AnswerReward):
    def __init__(self, config: ExactConfig) -> None:
        fold = str.casefold if config.ignore_case else str
        same = _same_choice if config.kind == "choice" else lambda answer, reference: fold(answer) == fold(reference)
        super().__init__(str.strip, same, str.strip)


class NumericReward(AnswerReward):
    def __init__(self, config: NumericConfig) -> None:
        def same(completion: str, reference: str) -> bool:
            return answers.same_answer(completion, reference, "numeric", config.tolerance, answers.answer_of)

        super().__init__(str, _same_choice if config.kind == "choice" else same)


def expected_choice(reference: str) -> str:
    """The letter that a reference is; ValueError where it is none."""
    if (expected := choice(reference)) is None:
        raise ValueError(f"reference {reference[:80]!r} is no letter of an option, as `kind: choice` expects")
    return expected


def _same_choice(answer: str, reference: str) -> bool:
    return choice(answer) == expected_choice(reference)


def _same(config: BoxedConfig | HashConfig | TagConfig) -> Callable[[str, str], bool]:
    if config.kind == "choice":
        return _same_choice
    return lambda answer, reference: answers.same_answer(answer, reference, config.comparison, config.tolerance)


class BoxedReward(AnswerReward):
    def __init__(self, config: BoxedConfig) -> None:
        super().__init__(answers.boxed, _same(config), answers.boxed)


class HashReward(AnswerReward):
    def __init__(self, config: HashConfig) -> None:
        super().__init__(answers.after_hash, _same(config), answers.after_hash)


class TagReward(AnswerReward):
    def __init__(self, config: TagConfig) -> None:
        def find(text: str) -> str | None:
            return answers.tagged(text, config.tag)

        super().__init__(find, _same(config), find)


class LengthReward(PointwiseReward):
    """The soft overlong penalty of DAPO, with its cache written as max_tokens − free_tokens."""

    is_quick = True

    def __init__(self, config: LengthConfig) -> None:
        self._config = config

    def score_one(self, completion: str, item: Item, index: int) -> float:
        if not item.num_tokens:
            raise ValueError("the item does not say how many tokens its completions have")
        over = max(0, item.num_tokens[index] - self._config.free_tokens)
        return -min(1.0, over / (self._config.max_tokens - self._config.free_tokens))
