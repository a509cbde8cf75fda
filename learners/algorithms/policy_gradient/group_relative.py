"""Group-relative advantages: a completion against the others of its prompt (GRPO, DAPO, GSPO, CISPO).

Given scored groups; gives (G,) advantages from the total reward, or from each reward alone. An algorithm adds its
objective.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, TypeVar

import numpy as np
from pydantic import Field, model_validator

from raylign.learners.algorithms.policy_gradient.policy import PolicyConfig, PolicyExamples
from raylign.learners.examples.from_groups import total_rewards
from raylign.learners.losses.advantages import (
    AdvantageScale,
    group_advantages,
    several_reward_advantages,
    several_reward_spread,
)
from raylign.rollout.sample import FloatArray, Group


class GroupRelativeConfig(PolicyConfig):
    """Keys of the algorithms with group-relative advantages."""

    advantage_scale: AdvantageScale = "group"
    """Rewards minus their group mean are divided by the group's std (GRPO), the batch's std, or nothing (Dr. GRPO)."""
    advantage_epsilon: float = Field(1e-6, ge=0)
    """Added to the std."""
    reward_normalization: Literal["total", "per_reward"] = "total"
    """Normalise the weighted sum of rewards, or each reward alone before weighting (GDPO)."""

    @model_validator(mode="after")
    def _no_penalty_on_the_total_of_separate_rewards(self) -> Self:
        if self.reward_normalization == "per_reward" and self.overlong is not None:
            raise ValueError(
                "overlong is added to the total reward, which reward_normalization: per_reward does not read"
            )
        return self

    def build_examples(
        self, seed: int = 0, rows_per_step: int = 1, reward_weights: Mapping[str, float] | None = None
    ) -> GroupRelativeExamples[Any]:
        return GroupRelativeExamples(self, reward_weights)


G = TypeVar("G", bound=GroupRelativeConfig)


class GroupRelativeExamples(PolicyExamples[G]):
    """Implements `advantages`."""

    def __init__(self, config: G, reward_weights: Mapping[str, float] | None = None) -> None:
        super().__init__(config)
        self.reward_weights = reward_weights

    def advantages(self, groups: Sequence[Group], rewards: Sequence[FloatArray]) -> list[FloatArray]:
        config = self.config
        if config.reward_normalization == "total":
            return group_advantages(rewards, config.advantage_scale, config.advantage_epsilon)
        named, weights = self._by_name(groups, rewards)
        return several_reward_advantages(named, weights, config.advantage_scale, config.advantage_epsilon)

    def has_spread(self, groups: Sequence[Group]) -> list[bool]:
        if self.config.reward_normalization == "total":
            return super().has_spread(groups)
        named, weights = self._by_name(groups, [total_rewards(group) for group in groups])
        return several_reward_spread(named, weights, self.config.advantage_scale)

    def _by_name(
        self, groups: Sequence[Group], totals: Sequence[FloatArray]
    ) -> tuple[list[dict[str, FloatArray]], Mapping[str, float]]:
        """Each reward of each group, NaN in all of them where one failed; and their weights."""
        if self.reward_weights is None:
            raise ValueError(
                "reward_normalization: per_reward needs the weights of the rewards: build with reward_weights"
            )
        for group in groups:
            if missing := self.reward_weights.keys() - group.rewards.keys():
                raise ValueError(f"prompt {group.prompt.prompt_id}: no scores of reward {', '.join(sorted(missing))}")
        named = [
            {name: np.where(np.isfinite(total_G), group.rewards[name], np.nan) for name in self.reward_weights}
            for group, total_G in zip(groups, totals, strict=True)
        ]
        return named, self.reward_weights
