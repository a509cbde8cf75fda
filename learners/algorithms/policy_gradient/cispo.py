"""CISPO: the ratio is capped and held constant, so that no token loses its gradient (MiniMax-M1, arXiv 2506.13585).

Given scored groups; gives examples with group-relative advantages, and the capped-ratio loss with the token mean. Only
the upper cap acts, as its users run it; with a negative advantage and a large ratio it still pushes hard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from raylign.learners.algorithms.facts import RunRows
from raylign.learners.algorithms.policy_gradient.group_relative import GroupRelativeConfig
from raylign.learners.algorithms.policy_gradient.policy import PolicyObjective
from raylign.learners.losses.policy import PolicyLoss, capped_ratio_loss

if TYPE_CHECKING:
    import torch

    from raylign.learners.examples.micro_batch import MicroBatch


class CispoConfig(GroupRelativeConfig):
    """Clipped importance-sampling policy optimization."""

    name: Literal["cispo"] = "cispo"
    """Which algorithm this is."""
    ratio_cap: float = Field(5.0, gt=0)
    """Largest ratio π_θ/π_old that weighs a token."""

    def build_objective(self, max_staleness: int = 0, rows: RunRows | None = None) -> Cispo:
        return Cispo(self, max_staleness)


class Cispo(PolicyObjective[CispoConfig]):
    """See the head of this file."""

    def objective(self, logps: torch.Tensor, old_logps: torch.Tensor, batch: MicroBatch) -> PolicyLoss:
        assert batch.advantages is not None
        return capped_ratio_loss(logps, old_logps, batch.advantages, self.config.ratio_cap)
