"""What the simulator knows of the machines: the decode curve, the lengths, and all times of one setting.

Given measured numbers; gives seconds of a decode step by running sequences, and lengths drawn by a seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from raylign.rollout.autoscale import AutoscaleConfig

P99_OF_NORMAL = 2.3263478740408408
"""Standard deviations from the median to the 99 % quantile."""


class DecodeCurve:
    """Seconds of one decode step of one engine, by how many sequences decode side by side.

    Straight lines between the measured points; below the first point the first time holds (a step never costs less than
    reading the weights), beyond the last the last two points go on.
    """

    def __init__(self, step_s: Mapping[int, float]) -> None:
        if not step_s:
            raise ValueError("decode_step_s is empty: give at least one `running sequences: seconds`")
        for num_seqs, seconds in step_s.items():
            if num_seqs < 1 or not 0 < seconds < math.inf:
                raise ValueError(
                    f"decode_step_s has {num_seqs}: {seconds}; it takes sequences from 1 and seconds above 0"
                )
        self.points = dict(sorted(step_s.items()))

    def step_s(self, num_seqs: int) -> float:
        """Seconds of one step with `num_seqs` running; each of them gains a token."""
        batches, times = list(self.points), list(self.points.values())
        if num_seqs <= batches[-1] or len(batches) == 1:
            return float(np.interp(num_seqs, batches, times))
        slope = (times[-1] - times[-2]) / (batches[-1] - batches[-2])
        return times[-1] + max(0.0, slope) * (num_seqs - batches[-1])

    def table(self, max_num_seqs: int) -> list[float]:
        """`step_s` of 0 … max_num_seqs; the first is never read."""
        return [0.0, *(self.step_s(num_seqs) for num_seqs in range(1, max_num_seqs + 1))]

    def saturated_tokens_per_s(self, max_num_seqs: int) -> float:
        """The best rate of one engine at any batch that it may hold."""
        return max(num_seqs / self.step_s(num_seqs) for num_seqs in range(1, max_num_seqs + 1))


class Lengths(Protocol):
    """A distribution of completion lengths."""

    @property
    def mean(self) -> float:
        """Mean tokens of a completion."""

    def draw(self, random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.int64]:
        """Whole tokens, at least 1."""


@dataclass(frozen=True)
class LognormalLengths:
    """By median and tail, cut at the token limit."""

    median_tokens: float
    p99_over_median: float
    max_tokens: int

    def draw(self, random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.int64]:
        sigma = math.log(self.p99_over_median) / P99_OF_NORMAL
        tokens = self.median_tokens * np.exp(sigma * random.standard_normal(shape))
        return np.clip(np.rint(tokens), 1, self.max_tokens).astype(np.int64)

    @cached_property
    def mean(self) -> float:
        return float(self.draw(np.random.default_rng(0), (200_000,)).mean())


@dataclass(frozen=True)
class RecordedLengths:
    """Drawn with replacement from lengths that a run had."""

    tokens: Sequence[int]

    def draw(self, random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.int64]:
        return random.choice(np.maximum(1, np.asarray(self.tokens, np.int64)), shape)

    @cached_property
    def mean(self) -> float:
        return float(np.mean(np.maximum(1, np.asarray(self.tokens))))


@dataclass(frozen=True)
class FailureRates:
    """How often roles fail, and how long they are away. Infinite: never."""

    engine_mean_s: float = math.inf
    """Mean time between two failures of one engine."""
    engine_restart_s: float = 0.0
    learner_mean_s: float = math.inf
    """Mean time between two failures of the learner, all ranks together."""
    learner_restart_s: float = 0.0
    checkpoint_every_steps: int = 1
    """A learner that failed does the steps since its last checkpoint again; 0: since the start."""
    restarts: Literal["role", "job"] = "role"
    """What starts again after a failure: the role that failed, or everything."""

    @property
    def can_happen(self) -> bool:
        """Whether anything ever fails."""
        return math.isfinite(self.engine_mean_s) or math.isfinite(self.learner_mean_s)


@dataclass(frozen=True)
class Setting:
    """One run to predict."""

    num_engines: int
    max_num_seqs: int
    """Sequences that one engine decodes side by side; others wait in it."""
    groups_per_step: int
    num_completions: int
    """Completions of a group."""
    num_steps: int
    max_staleness: int
    decode: DecodeCurve
    lengths: Lengths
    learner_tokens_per_s: float
    """Of all ranks together."""
    learner_fixed_s: float = 0.0
    """Of one step, whatever its tokens."""
    export_s: float = 0.0
    """The learner hands out its weights and trains nothing meanwhile."""
    sync_s: float = 0.0
    """Engines stand still while they take the weights."""
    recompute_tokens_per_s: float = math.inf
    """Of one engine: after an update it computes the keys and values of its running sequences again. Infinite: it keeps
    them."""
    takes_turns: bool = False
    """Engines and learner are the same devices: one works at a time, and nothing runs ahead."""
    switch_s: float = 0.0
    """Of one step that takes turns: sleep, reload, offload and wake together."""
    in_flight: bool = True
    """False: running sequences end before new weights are taken, and none starts meanwhile."""
    failures: FailureRates = field(default_factory=FailureRates)
    autoscale: AutoscaleConfig | None = None
    """Engines join and leave by this; `num_engines` are those of the start."""
    engine_start_s: float = 0.0
    """Of one that joins, until it serves."""
    seed: int = 0

    @property
    def tokens_per_step(self) -> float:
        """Mean tokens of a step."""
        return self.groups_per_step * self.num_completions * self.lengths.mean
