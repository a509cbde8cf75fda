"""What travels through the system: prompts, completions, groups.

Given nothing; gives the value types that rollouts make, rewards score and learners read.
Arrays are numpy, never torch tensors, so that Ray moves them without copies.

    Prompt(prompt_id="3f2a-17", ordinal=0, text="2 + 3 =", token_ids=[5, 11, 6, 12], references=("5",), ...)
    Completion(token_ids=[8, 2], logps=[-0.1, -0.02], version_spans=(VersionSpan(0, 0, 2),), stop_reason="stop", ...)
    Group(prompt, (completion, ...), rewards={"exact": [1.0, ...]}, total_rewards=[1.0, ...])

Axis suffixes: G completions of one prompt, T tokens of one completion.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from raylign.rollout.late_text import KEY, LateText

IntArray = NDArray[np.int32]
FloatArray = NDArray[np.float32]

ENGINE_DIED = "engine_died"
"""`Failure.kind` of a group whose engine is gone: no other group of it will come either."""

StopReason = Literal["stop", "length", "aborted"]
"""stop: an end token or stop string; length: the token limit; aborted: the engine gave up on it."""


@dataclass(frozen=True)
class VersionSpan:
    """Tokens `[start, end)` of a completion were sampled from weights `version`, as the engine reported."""

    version: int
    start: int
    end: int


@dataclass(frozen=True)
class Prompt:
    """One prompt in its place in the run's order."""

    prompt_id: str
    """Stable over runs: data fingerprint and row."""
    ordinal: int
    """Position in the run's order; order is a pure function of (seed, ordinal)."""
    text: str
    """The rendered prompt, exactly what `token_ids` encode."""
    token_ids: IntArray
    references: tuple[str, ...] = ()
    """Accepted or demonstration answers; may be empty."""
    messages: tuple[dict[str, Any], ...] = ()
    """The same prompt as a chat, before any template; for rewards that render it in their own way."""
    row: dict[str, Any] = field(default_factory=dict)
    """The data row it came from, for rewards that need more than the references."""
    fingerprint: str = ""
    """Fingerprint of the data set."""


@dataclass(frozen=True)
class Completion:
    """One sampled answer, with the evidence needed to train on it."""

    token_ids: IntArray
    logps: FloatArray
    """(T,) log-probabilities of the sampled tokens under the distribution that was sampled from."""
    version_spans: tuple[VersionSpan, ...]
    stop_reason: StopReason
    text: str = cast(str, LateText())

    def __post_init__(self) -> None:
        if len(self.token_ids) != len(self.logps):
            raise ValueError(f"{len(self.token_ids)} token ids but {len(self.logps)} log-probabilities")

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {KEY: self.text}  # it travels decoded


@dataclass(frozen=True)
class PreferencePair:
    """One prompt with a better and a worse answer, from a data set or made of a group."""

    prompt: Prompt
    chosen_ids: IntArray
    rejected_ids: IntArray
    chosen: str
    rejected: str
    probability: float = 1.0
    """That `chosen` is the better one (soft label); 1: certain."""
    num_drawn: int | None = None
    """n, where the two are best and worst of n samples."""


@dataclass(frozen=True)
class Failure:
    """Something that went wrong with one sample, carried as a value instead of an exception."""

    kind: str
    """timeout, crash, exception, nan, wrong_count, unreachable, engine, engine_died, refused."""
    where: str
    """Which part: a reward's name, or `engine`."""
    message: str


@dataclass(frozen=True)
class Group:
    """One prompt with its completions and, once scored, their rewards."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    rewards: dict[str, FloatArray] = field(default_factory=dict)
    """By reward name, (G,) unweighted; NaN where scoring failed. Filled by the reward server."""
    total_rewards: FloatArray | None = None
    """(G,) weighted sum; NaN where any part failed. Filled by the reward server."""
    failures: tuple[Failure, ...] = ()
    timings_s: dict[str, float] = field(default_factory=dict)
    """Seconds by phase: generate, score."""
    importance_weight: float = 1.0
    """Of prioritised sampling; filled as the experience log hands the group out, and not kept in it."""

    @property
    def num_tokens(self) -> int:
        """Generated tokens in all completions."""
        return sum(len(completion.token_ids) for completion in self.completions)

    def scored(
        self,
        rewards: dict[str, FloatArray],
        total_rewards: FloatArray,
        failures: tuple[Failure, ...],
        score_s: float,
    ) -> Group:
        """The same group with its rewards."""
        return replace(
            self,
            rewards=rewards,
            total_rewards=total_rewards,
            failures=self.failures + failures,
            timings_s={**self.timings_s, "score": score_s},
        )
