"""The interface of every reward: score one group of completions of one prompt.

Given an `Item` (a prompt's completions with its references), gives one `Score` for each completion:
a finite float, or a `RewardFailure` that says what went wrong. The group is the unit, so a pairwise preference is
no special case; a reward of single completions derives from `PointwiseReward`.
"""

from __future__ import annotations

import errno
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from socket import gaierror
from typing import Any, Literal

from pydantic import BaseModel, Field

FailureKind = Literal[
    "timeout",
    "crash",
    "exception",
    "nan",
    "wrong_count",
    "unreachable",
    "not_applicable",  # no failure at all: the reward says that it has no word on this completion
    # the limits of a killable reward, named as in rewards/sandbox/limits.py
    "memory",
    "processes",
    "file_size",
    "network",
    "cpu",
    "reply",
]


@dataclass(frozen=True)
class RewardFailure:
    """Why one completion has no score."""

    kind: FailureKind
    message: str


class Graded(float):
    """A score with further numbers that a reward gave for the same completion; they become metrics.

    Graded.of(0.5, {"format": 1.0})
    """

    parts: dict[str, float]

    @classmethod
    def of(cls, score: float, parts: Mapping[str, Any]) -> Graded:
        """Parts that are no finite numbers (texts, lists) are left out."""
        graded = cls(score)
        graded.parts = {_plain(name): number for name, part in parts.items() if (number := _finite(part)) is not None}
        return graded


def _plain(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode("utf-8")[:80]  # no file takes half a character


def _finite(value: Any) -> float | None:
    if isinstance(value, str | bytes):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


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
    messages: tuple[dict[str, str], ...] = ()
    """The chat behind the prompt, for reward models; empty: `prompt` is the user's message."""


class WeightedConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """What every reward's config has, beside its `name`."""

    weight: float = Field(1.0, allow_inf_nan=False)
    """Factor of this reward in the total."""


class KillableConfig(WeightedConfig):
    """What the config of a reward that can hang or crash has: it runs in processes of its own."""

    deadline_s: float = Field(10.0, gt=0, allow_inf_nan=False)
    """Time for one completion (`function`: for one group); what takes longer is killed and counts as failed."""
    start_deadline_s: float = Field(60.0, gt=0, allow_inf_nan=False)
    """Time for a process to start and import what the reward needs."""
    num_processes: int = Field(1, ge=1)
    """Processes that score side by side."""
    environment: tuple[str, ...] = ()
    """Names of environment variables that it may read, beside those that every program needs: keys stay outside."""
    max_memory_gib: float | None = Field(4.0, gt=0, allow_inf_nan=False)
    """Memory of each process with all that it starts (address space: twice as much); null: no limit."""
    max_processes: int | None = Field(64, ge=1)
    """Processes that one process may have below it at one time, itself included; null: no limit."""
    max_file_gib: float | None = Field(1.0, gt=0, allow_inf_nan=False)
    """Size of any file that it writes; null: no limit."""
    max_cpu_s: float | None = Field(600.0, gt=0, allow_inf_nan=False)
    """CPU seconds for one completion (`function`: for one group), of all threads; null: no limit."""
    network: bool = False
    """Whether it may use the network; without, it reaches nothing, not even this machine, where the kernel can."""

    @property
    def needs_process(self) -> bool:
        """Whether this very reward needs the process; a `task` does only where its code is a user's."""
        return True


class Reward(ABC):
    """Scores groups. `can_hang` rewards run in killable processes (rewards/sandbox/sandbox.py)."""

    can_hang: bool = False
    is_pointwise: bool = False
    """Whether completions may be scored apart from their group."""
    is_batched: bool = False
    """Whether many items at once are cheaper than one by one (a model), so that they wait for each other."""
    max_in_flight: int = 32
    """Items that may be under way at once, each in a thread of its own."""
    is_quick: bool = False
    """Whether an item is scored at once, in place: nobody gains from waiting for it apart."""
    form: str = ""
    """For `plan`: in which form a function of the user was found."""

    @abstractmethod
    def score(self, items: Sequence[Item]) -> list[list[Score]]:
        """One list of G scores for each item, in order."""

    def close(self) -> None:  # noqa: B027  most rewards hold nothing
        """Release processes and connections."""


class PointwiseReward(Reward):
    """A reward that looks at one completion at a time: the easy case."""

    is_pointwise = True

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
            score = self.score_one(completion, item, index)
            return score if isinstance(score, Graded) else float(score)
        except Exception as error:  # a reward may never end a run
            return failure_of(error)


def failure_of(error: BaseException, words: str = "") -> RewardFailure:
    """What code raised, as a failure: out of memory and a file too large are limits, not mistakes of the code."""
    words = words or f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError):
        return RewardFailure("memory", words)
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return RewardFailure("file_size", words)
    if _is_unreachable(error):
        return RewardFailure("network", words)
    return RewardFailure("exception", words)


def _is_unreachable(error: BaseException) -> bool:
    """Whether there was no network, in this error or in one that it was raised from: libraries wrap theirs."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and (error.errno == errno.ENETUNREACH or isinstance(error, gaierror)):
            return True
        error = error.__cause__ or error.__context__ or error
    return False


def typed_scores(values: object, num_completions: int) -> list[Score]:
    """What any code gave back for one group, as exactly one finite float or failure for each completion."""
    if isinstance(values, str | bytes | dict) or not isinstance(values, Iterable):
        message = f"gave back {type(values).__name__}, expected a list of {num_completions} numbers"
        return [RewardFailure("exception", message)] * num_completions
    listed = list(values)
    if len(listed) != num_completions:
        message = f"gave back {len(listed)} scores for {num_completions} completions"
        return [RewardFailure("wrong_count", message)] * num_completions
    return [_typed_score(value) for value in listed]


def _typed_score(value: Any) -> Score:
    if isinstance(value, RewardFailure) or (isinstance(value, Graded) and math.isfinite(value)):
        return value
    try:
        score = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        return RewardFailure("exception", f"a score is no number but {type(value).__name__}: {error}")
    return score if math.isfinite(score) else RewardFailure("nan", f"the score is {score}")
