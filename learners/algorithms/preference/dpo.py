"""DPO: the policy as its own reward model (Rafailov et al. 2023, arXiv 2305.18290).

Given preference pairs; −log σ(β·h) with summed log-probs, soft labels and label smoothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from raylign.learners.algorithms.facts import RunRows
from raylign.learners.algorithms.preference.pairs import PairConfig, PairObjective, Pairs
from raylign.learners.losses.preference import logistic_loss

if TYPE_CHECKING:
    import torch


class DpoConfig(PairConfig):
    """Direct preference optimization."""

    name: Literal["dpo"] = "dpo"
    """Which algorithm this is."""
    beta: float = Field(0.1, gt=0)
    """Strength of the pull to the reference: implicit rewards are beta times the log-ratio."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Share of labels taken for wrong."""
    reference_free: bool = False
    """Take the reference's log-ratio for 0; no reference model is loaded."""

    @property
    def needs_reference(self) -> bool:
        return not self.reference_free

    def build_objective(self, max_staleness: int = 0, rows: RunRows | None = None) -> Dpo:
        return Dpo(self)


class Dpo(PairObjective[DpoConfig]):
    """Implements `pair_loss`."""

    def __init__(self, config: DpoConfig) -> None:
        super().__init__(config)
        self.beta = config.beta

    def pair_loss(self, pairs: Pairs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """−q·log σ(βh) − (1−q)·log σ(−βh)."""
        beta = self.config.beta
        losses = logistic_loss(beta * pairs.h, pairs.facts["probability"], self.config.label_smoothing)
        return losses, {
            "preference/chosen_reward": beta * pairs.chosen_log_ratios.detach(),
            "preference/rejected_reward": beta * pairs.rejected_log_ratios.detach(),
        }
