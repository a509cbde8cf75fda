"""The interface of every reward: score one group of completions of one prompt.

Given an `Item` (a prompt's completions with its references), gives one `Score` for each completion:
a finite float, or a `RewardFailure` that says what went wrong. The group is the unit, so a pairwise preference is no special case; a reward
of single completions derives from `PointwiseReward`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

FailureKind = Literal["timeout", "crash", "exception", "nan", "wrong_count", "unreachable"]


@dataclass(frozen=True)
class RewardFailure:
    """Why one completion has no score."""

    kind: FailureKind
    message: str


Score = float | RewardFailure


@dataclass(frozen=True)
class Item:
    """All that a reward may look at: one prompt and its G completions."""

    prompt: str
    completions: tuple[str, ...]
    references: tuple[str, ...] = ()
    row: dict[str, Any] = field(default_factory=dict)
    """The data row, for rewards that need other columns (reasoning_gym's `metadata`)."""
    num_tokens: tuple[int, ...] = ()
    """Tokens of each completion, for length rewards."""
    finished: tuple[bool, ...] = ()
    """False where the completion was cut at the token limit."""


class Reward(ABC):
    """Scores groups. `can_hang` rewards run in killable processes (rewards/sandbox.py)."""

    can_hang: bool = False

    @abstractmethod
    def score(self, items: Sequence[Item]) -> list[list[Score]]:
        """One list of G scores for each item, in order."""

    def close(self) -> None:  # noqa: B027  most rewards hold nothing
        """Release processes and connections."""


class PointwiseReward(Reward):
    """A reward that looks at one completion at a time: the easy case."""

    @abstractmethod
    def score_one(self, completion: str, item: Item, index: int) -> float:
        """Score of completion `index` of `item`. An exception becomes a typed failure of that sample."""

    def score(self, items: Sequence[Item]) -> list[list[Score]]:
        return [
            [self._guarded(completion, item, index) for index, completion in enumerate(item.completions)]
            for item in items
        ]

    def _guarded(self, completion: str, item: Item, index: int) -> Score:
        try:
            return float(self.score_one(completion, item, index))
        except Exception as error:  # a reward may never end a run
            return RewardFailure("exception", f"{type(error).__name__}: {error}")
