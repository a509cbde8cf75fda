"""Dr. GRPO: GRPO without its biases, towards long wrong answers and easy or hard prompts (arXiv 2503.20783).

Given scored groups; gives examples with A_i = R_i − group mean (no std), and PPO's clipped loss summed over tokens and
divided by (sequences × a constant), never by a sequence's own length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from raylign.learners.algorithms.facts import RunRows
from raylign.learners.algorithms.policy_gradient.policy import ClippedConfig, PolicyExamples, PolicyObjective
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

    def build_objective(self, max_staleness: int = 0, rows: RunRows | None = None) -> DrGrpo:
        return DrGrpo(self, max_staleness)

    def build_examples(
        self, seed: int = 0, rows_per_step: int = 1, reward_weights: Mapping[str, float] | None = None
    ) -> DrGrpoExamples:
        return DrGrpoExamples(self)


class DrGrpo(PolicyObjective[DrGrpoConfig]):
    """See the head of this file."""

    aggregation = "seq_mean_token_sum_norm"

    def __init__(self, config: DrGrpoConfig, max_staleness: int = 0) -> None:
        super().__init__(config, max_staleness)
        self.norm_constant = config.norm_constant


class DrGrpoExamples(PolicyExamples[DrGrpoConfig]):
    """Implements `advantages`."""

    def advantages(self, groups: Sequence[Group], rewards: Sequence[FloatArray]) -> list[FloatArray]:
        return group_advantages(rewards, "none")
