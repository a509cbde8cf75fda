"""DAPO: GRPO for long reasoning: higher upper clip, token mean, dynamic sampling, soft overlong penalty
(arXiv 2503.14476).

Given scored groups; gives examples with group-relative advantages, the clipped loss, and which groups to replace: those
whose rewards are all equal teach nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from raylign.learners.algorithms.base import DynamicSampling
from raylign.learners.algorithms.facts import RunRows
from raylign.learners.algorithms.policy_gradient.group_relative import GroupRelativeConfig, GroupRelativeExamples
from raylign.learners.algorithms.policy_gradient.policy import ClippedConfig, PolicyObjective
from raylign.rewards.z_scores import all_equal
from raylign.rollout.sample import Group


class DapoConfig(ClippedConfig, GroupRelativeConfig):
    """Decoupled clip and dynamic sampling."""

    name: Literal["dapo"] = "dapo"
    """Which algorithm this is."""
    dynamic_sampling: DynamicSampling | None = DynamicSampling()

    def build_objective(self, max_staleness: int = 0, rows: RunRows | None = None) -> Dapo:
        return Dapo(self, max_staleness)

    def build_examples(
        self, seed: int = 0, rows_per_step: int = 1, reward_weights: Mapping[str, float] | None = None
    ) -> DapoExamples:
        return DapoExamples(self, reward_weights)


class Dapo(PolicyObjective[DapoConfig]):
    """See the head of this file."""


class DapoExamples(GroupRelativeExamples[DapoConfig]):
    """Implements `accepts`."""

    def __init__(self, config: DapoConfig, reward_weights: Mapping[str, float] | None = None) -> None:
        super().__init__(config, reward_weights)
        self.dynamic_sampling = config.dynamic_sampling

    def accepts(self, group: Group) -> bool:
        """Whether it has spread, alone: where the batch scales each reward, whether any of them differs."""
        if self.dynamic_sampling is None:
            return True
        if not group.completions:
            return False
        if self.config.reward_normalization == "per_reward" and self.config.advantage_scale == "batch":
            assert self.reward_weights is not None
            counting = [group.rewards[name] for name, weight in self.reward_weights.items() if weight]
            return any(not all_equal(reward_G[np.isfinite(reward_G)]) for reward_G in counting)
        return self.has_spread([group])[0]
