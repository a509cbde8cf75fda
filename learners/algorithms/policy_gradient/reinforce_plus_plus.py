"""REINFORCE++: token returns whitened over the global batch instead of a group, with PPO's clip (arXiv 2501.03262).

Given scored groups, also of one completion; gives examples whose advantages are made once log-probs are there: the KL
to the reference is paid token by token inside the reward. `baseline: true` is REINFORCE++-baseline: the group mean is
taken out first, and the KL is a k2 term of the loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field

from raylign.learners.algorithms.facts import RunRows
from raylign.learners.algorithms.policy_gradient.policy import ClippedConfig, PolicyExamples, PolicyObjective
from raylign.learners.examples.example import Example
from raylign.learners.losses.advantages import group_advantages, returns_with_kl, whitened
from raylign.learners.losses.policy import KlEstimator
from raylign.rollout.sample import FloatArray, Group


class ReinforcePlusPlusConfig(ClippedConfig):
    """REINFORCE with PPO's clip and advantages whitened over the batch."""

    name: Literal["reinforce_plus_plus"] = "reinforce_plus_plus"
    """Which algorithm this is."""
    baseline: bool = False
    """Take the group mean out of rewards first; better for more than one completion of a prompt."""
    clip_high: float = Field(0.2, ge=0)
    """Ratios over 1 + clip_high get no gradient where the advantage is positive."""
    kl_estimator: KlEstimator = "k2"
    """Of the KL in the loss: k1, k2 or k3; in the reward it is k1."""

    @property
    def kl_place(self) -> Literal["loss", "reward"]:
        return "loss" if self.baseline else "reward"

    @property
    def min_group_size(self) -> int:
        return 2 if self.baseline else 1

    def build_objective(self, max_staleness: int = 0, rows: RunRows | None = None) -> ReinforcePlusPlus:
        return ReinforcePlusPlus(self, max_staleness)

    def build_examples(
        self, seed: int = 0, rows_per_step: int = 1, reward_weights: Mapping[str, float] | None = None
    ) -> ReinforcePlusPlusExamples:
        return ReinforcePlusPlusExamples(self)


class ReinforcePlusPlus(PolicyObjective[ReinforcePlusPlusConfig]):
    """See the head of this file."""

    completes_batch = True

    def complete(self, examples: list[Example]) -> list[Example]:
        """Returns of each token, whitened over all tokens in the loss."""
        returns = [self._returns(example) for example in examples]
        advantages = whitened(returns, [example.loss_mask for example in examples])
        return [
            replace(example, advantages=advantage_T) for example, advantage_T in zip(examples, advantages, strict=True)
        ]

    def _returns(self, example: Example) -> FloatArray:
        assert example.advantages is not None
        if not self.needs_old_logps:
            return example.advantages
        assert example.old_logps is not None and example.reference_logps is not None, "the learner fills both"
        return returns_with_kl(
            float(example.advantages[-1]),
            example.old_logps,
            example.reference_logps,
            example.loss_mask,
            self.config.kl_coef,
        )


class ReinforcePlusPlusExamples(PolicyExamples[ReinforcePlusPlusConfig]):
    """Implements `advantages`."""

    def advantages(self, groups: Sequence[Group], rewards: Sequence[FloatArray]) -> list[FloatArray]:
        """Rewards, or rewards minus their group mean: `complete` makes advantages of them."""
        if self.config.baseline:
            return group_advantages(rewards, "none")
        return [np.nan_to_num(reward_G, nan=0.0) for reward_G in rewards]
