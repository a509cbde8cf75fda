"""Dr. GRPO: GRPO without its biases, towards long wrong answers and easy or hard prompts (arXiv 2503.20783).

Given scored groups; gives examples with A_i = R_i − group mean (no std), and PPO's clipped loss summed over tokens and
divided by (sequences × a constant), never by a sequence's own length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from raylign.learners.algorithms.policy_gradient.policy import ClippedConfig, PolicyAlgorithm
from raylign.learners.losses.advantages import group_advantages
from raylign.rollout.sample import FloatArray, Group


class DrGrpoConfig(ClippedConfig):
    """GRPO without std and without length division."""

    name: Literal["dr_grpo"] = "dr_grpo"
    """Which algorithm this is."""
    norm_constant: float = Field(gt=0)
    """What a sequence's token sum is divided by; usually sampling.max_tokens."""
    clip_high: float = Field(0.2, ge=0)
    """Ratios over 1 + clip_high get no gradient where the advantage is positive."""


class DrGrpo(PolicyAlgorithm[DrGrpoConfig]):
    """See the head of this file."""

    aggregation = "seq_mean_token_sum_norm"

    def __init__(
        self, config: DrGrpoConfig, max_staleness: int = 0, reward_weights: Mapping[str, float] | None = None
    ) -> None:
        super().__init__(config, max_staleness, reward_weights)
        self.norm_constant = config.norm_constant

    def advantages(self, groups: Sequence[Group], rewards: Sequence[FloatArray]) -> list[FloatArray]:
        return group_advantages(rewards, "none")
