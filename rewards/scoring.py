"""Several rewards on the same groups: scores by name, weighted total, failures.

Given reward configs and items, gives for each item a `Scored`. Whatever a reward does wrong (raises, NaN, wrong
count, timeout, crash) becomes a typed failure and a NaN on the samples concerned; no call here ends a run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from raylign.rewards.addresses import without_secrets
from raylign.rewards.base import Graded, Item, Reward, RewardFailure, Score, typed_scores
from raylign.rewards.registry import AnyRewardConfig, build_reward


@dataclass(frozen=True)
class Scored:
    """The rewards of one group of G completions.

    Scored(rewards={"exact": [1, 0], "length": [0, nan]}, total=[1, nan], failures=(("length", RewardFailure(…)),))
    """

    rewards: dict[str, NDArray[np.float32]]
    """(G,) by reward name, unweighted; NaN where it failed or does not apply. After them `name/part`: further numbers
    that a reward gave, which count in no total."""
    total: NDArray[np.float32]
    """(G,) weighted sum of those that apply; NaN where any failed or none applies."""
    failures: tuple[tuple[str, RewardFailure], ...] = ()
    """One for each failed sample and reward, with the reward's name."""
    num_not_applicable: int = 0
    """Scores that a reward left out, as not applicable to the sample."""


def distinct_names(configs: Sequence[AnyRewardConfig]) -> list[str]:
    """`numeric`, `numeric_2`, …: the key of each reward in metrics and samples."""
    names: list[str] = []
    for config in configs:
        name: str = config.name
        repeat = 1
        while name in names:
            repeat += 1
            name = f"{config.name}_{repeat}"
        names.append(name)
    return names


def weights_by_name(configs: Sequence[AnyRewardConfig]) -> dict[str, float]:
    """What each reward counts in the total."""
    return dict(zip(distinct_names(configs), (config.weight for config in configs), strict=True))


class Scorer:
    """Holds the rewards of a run. `build` makes each from its config; a host may build some elsewhere."""

    def __init__(
        self,
        configs: Sequence[AnyRewardConfig],
        build: Callable[[AnyRewardConfig], Reward] = build_reward,
    ) -> None:
        self.weights = [config.weight for config in configs]
        """In the order of the configs."""
        self.names = distinct_names(configs)
        self._rewards: list[Reward] = []
        try:
            for config in configs:
                self._rewards.append(build(config))
        except BaseException:
            self.close()
            raise

    @property
    def forms(self) -> dict[str, str]:
        """By name, in which form a function of the user was found."""
        return {name: reward.form for name, reward in zip(self.names, self._rewards, strict=True) if reward.form}

    def reward(self, index: int) -> Reward:
        """One of the rewards, in the order of the configs."""
        return self._rewards[index]

    def score(self, items: Sequence[Item]) -> list[Scored]:
        """One `Scored` for each item, in order."""
        scores_R = [self.score_with(index, items) for index in range(len(self._rewards))]  # R rewards
        return [
            self.combined([scores[index] for scores in scores_R], len(item.completions))
            for index, item in enumerate(items)
        ]

    def score_with(self, index: int, items: Sequence[Item]) -> list[list[Score]]:
        """What one of the rewards gives for each item; it may be called from several threads unless it is batched."""
        return _scores(self._rewards[index], items)

    def combined(self, scores_R: Sequence[list[Score]], num_completions: int) -> Scored:
        """The scores of one item by all rewards."""
        rewards: dict[str, NDArray[np.float32]] = {}
        failures: list[tuple[str, RewardFailure]] = []
        total = np.zeros(num_completions, dtype=np.float64)  # without any reward they stay 0
        parts: dict[str, NDArray[np.float32]] = {}
        applies = np.full(num_completions, not self._rewards)
        num_not_applicable = 0
        for name, weight, scores_G in zip(self.names, self.weights, scores_R, strict=True):
            left_out = np.array([_is_left_out(score) for score in scores_G], bool)
            failures += [
                (name, replace(score, message=without_secrets(score.message)))  # it will be written to files
                for score in scores_G
                if isinstance(score, RewardFailure) and score.kind != "not_applicable"
            ]
            values = np.array([np.nan if isinstance(score, RewardFailure) else score for score in scores_G], np.float64)
            rewards[name] = values.astype(np.float32)
            total += weight * np.where(left_out, 0.0, values)
            applies |= ~left_out
            num_not_applicable += int(left_out.sum())
            parts |= _parts(name, scores_G)
        total[~applies] = np.nan
        return Scored(rewards | parts, total.astype(np.float32), tuple(failures), num_not_applicable)

    def close(self) -> None:
        """Release processes and connections of all rewards."""
        for reward in self._rewards:
            reward.close()


def _is_left_out(score: Score) -> bool:
    return isinstance(score, RewardFailure) and score.kind == "not_applicable"


def _parts(name: str, scores_G: Sequence[Score]) -> dict[str, NDArray[np.float32]]:
    """(G,) by `name/part`; NaN where a completion has none."""
    found = [score.parts if isinstance(score, Graded) else {} for score in scores_G]
    names = dict.fromkeys(part for parts in found for part in parts)
    return {f"{name}/{part}": np.array([parts.get(part, np.nan) for parts in found], np.float32) for part in names}


def _scores(reward: Reward, items: Sequence[Item]) -> list[list[Score]]:
    """What `reward` gives, checked; when it raises, a failure for each completion."""
    try:
        scores = reward.score(items)
    except Exception as error:  # a reward may never end a run
        failure = RewardFailure("exception", f"{type(error).__name__}: {error}")
        return [[failure] * len(item.completions) for item in items]
    if len(scores) != len(items):
        failure = RewardFailure("wrong_count", f"gave back {len(scores)} groups for {len(items)}")
        return [[failure] * len(item.completions) for item in items]
    return [typed_scores(scores_G, len(item.completions)) for scores_G, item in zip(scores, items, strict=True)]
