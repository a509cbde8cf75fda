"""Several rewards on the same groups: scores by name, weighted total, failures.

Given reward configs and items, gives for each item a `Scored`. Whatever a reward does wrong (raises, NaN, wrong
count, timeout, crash) becomes a typed failure and a NaN on the samples concerned; no call here ends a run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylign.rewards.base import Item, Reward, RewardFailure, Score, typed_scores
from raylign.rewards.registry import AnyRewardConfig, build_reward


@dataclass(frozen=True)
class Scored:
    """The rewards of one group of G completions.

    Scored(rewards={"exact": [1, 0], "length": [0, nan]}, total=[1, nan], failures=(("length", RewardFailure(…)),))
    """

    rewards: dict[str, NDArray[np.float32]]
    """(G,) by reward name, unweighted; NaN where it failed."""
    total: NDArray[np.float32]
    """(G,) weighted sum; NaN where any reward failed."""
    failures: tuple[tuple[str, RewardFailure], ...] = ()
    """One for each failed sample and reward, with the reward's name."""


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
        self._weights = [config.weight for config in configs]
        self.names = distinct_names(configs)
        self._rewards: list[Reward] = []
        try:
            for config in configs:
                self._rewards.append(build(config))
        except BaseException:
            self.close()
            raise

    def score(self, items: Sequence[Item]) -> list[Scored]:
        """One `Scored` for each item, in order."""
        scores_R = [_scores(reward, items) for reward in self._rewards]  # R rewards
        return [
            self._scored([scores[index] for scores in scores_R], len(item.completions))
            for index, item in enumerate(items)
        ]

    def _scored(self, scores_R: Sequence[list[Score]], num_completions: int) -> Scored:
        rewards: dict[str, NDArray[np.float32]] = {}
        failures: list[tuple[str, RewardFailure]] = []
        total = np.zeros(num_completions, dtype=np.float64)  # without any reward they stay 0
        for name, weight, scores_G in zip(self.names, self._weights, scores_R, strict=True):
            failures += [(name, score) for score in scores_G if isinstance(score, RewardFailure)]
            values = np.array([np.nan if isinstance(score, RewardFailure) else score for score in scores_G])
            rewards[name] = values.astype(np.float32)
            total += weight * values
        return Scored(rewards, total.astype(np.float32), tuple(failures))

    def close(self) -> None:
        """Release processes and connections of all rewards."""
        for reward in self._rewards:
            reward.close()


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
