"""GSPO: ratio and clipping of the whole sequence instead of each token (arXiv 2507.18071).

Given scored groups; gives examples with group-relative advantages, and the clipped loss of the length-normalised
sequence ratio. Its clip range is a thousand times narrower than PPO's: 0.2 would switch clipping off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from raylign.learners.algorithms.facts import RunRows
from raylign.learners.algorithms.policy_gradient.group_relative import GroupRelativeConfig
from raylign.learners.algorithms.policy_gradient.policy import PolicyObjective
from raylign.learners.losses.policy import PolicyLoss, sequence_policy_loss

if TYPE_CHECKING:
    import torch

    from raylign.learners.examples.micro_batch import MicroBatch


class GspoConfig(GroupRelativeConfig):
    """Group sequence policy optimization."""

    name: Literal["gspo"] = "gspo"
    """Which algorithm this is."""
    clip_low: float = Field(3e-4, ge=0, le=1)
    """Sequence ratios under 1 - clip_low get no gradient where the advantage is negative."""
    clip_high: float = Field(4e-4, ge=0)
    """Sequence ratios over 1 + clip_high get no gradient where the advantage is positive."""
    token_level: bool = False
    """GSPO-token: the sequence's ratio with each token's own gradient, for advantages that differ within a sequence."""

    def build_objective(self, max_staleness: int = 0, rows: RunRows | None = None) -> Gspo:
        return Gspo(self, max_staleness)


class Gspo(PolicyObjective[GspoConfig]):
    """See the head of this file."""

    aggregation = "seq_mean_token_mean"

    def objective(self, logps: torch.Tensor, old_logps: torch.Tensor, batch: MicroBatch) -> PolicyLoss:
        config = self.config
        assert batch.advantages is not None
        return sequence_policy_loss(
            logps,
            old_logps,
            batch.advantages,
            batch.loss_mask,
            batch.sequence_index,
            batch.sequence_lengths,
            config.clip_low,
            config.clip_high,
            config.token_level,
        )
