"""GRPO: each completion against the others of its prompt, with PPO's clipped loss (arXiv 2402.03300).

Given scored groups; gives examples with group-relative advantages, and the clipped loss. Departs from the first paper:
token mean over the global batch, KL off, clip 0.2/0.28; `aggregation: seq_mean_token_mean`, `clip_high: 0.2`,
`kl_coef: 0.04` give the paper's.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from raylign.learners.algorithms.facts import RunRows
from raylign.learners.algorithms.policy_gradient.group_relative import GroupRelativeConfig
from raylign.learners.algorithms.policy_gradient.policy import ClippedConfig, PolicyObjective
from raylign.learners.losses.policy import Aggregation


class GrpoConfig(ClippedConfig, GroupRelativeConfig):
    """Group-relative policy optimization."""

    name: Literal["grpo"] = "grpo"
    """Which algorithm this is."""
    aggregation: Aggregation = "token_mean"
    """How token losses become one number, over the global batch."""
    norm_constant: float | None = Field(None, gt=0)
    """Divisor of seq_mean_token_sum_norm, usually max_tokens (Dr. GRPO)."""

    @model_validator(mode="after")
    def _constant_belongs_to_its_aggregation(self) -> Self:
        if (self.aggregation == "seq_mean_token_sum_norm") != (self.norm_constant is not None):
            raise ValueError(
                f"aggregation is {self.aggregation} and norm_constant is {self.norm_constant}: "
                "seq_mean_token_sum_norm needs norm_constant, the other aggregations do not read it"
            )
        return self

    def build_objective(self, max_staleness: int = 0, rows: RunRows | None = None) -> Grpo:
        return Grpo(self, max_staleness)


class Grpo(PolicyObjective[GrpoConfig]):
    """See the head of this file."""

    def __init__(self, config: GrpoConfig, max_staleness: int = 0) -> None:
        super().__init__(config, max_staleness)
        self.aggregation = config.aggregation
        self.norm_constant = config.norm_constant
