"""IPO: a margin of fixed size (Azar et al. 2023, arXiv 2310.12036).

Given preference pairs; (h − 1/(2β))² with summed log-probs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from raylign.learners.algorithms.facts import RunRows
from raylign.learners.algorithms.preference.pairs import PairConfig, PairObjective, Pairs
from raylign.learners.losses.preference import square_loss

if TYPE_CHECKING:
    import torch


class IpoConfig(PairConfig):
    """Identity preference optimization."""

    name: Literal["ipo"] = "ipo"
    """Which algorithm this is."""
    beta: float = Field(0.1, gt=0)
    """The log-ratio margin is pulled to 1/(2 beta)."""
    reference_free: bool = False
    """Take the reference's log-ratio for 0; no reference model is loaded."""

    @property
    def needs_reference(self) -> bool:
        return not self.reference_free

    def build_objective(self, max_staleness: int = 0, rows: RunRows | None = None) -> Ipo:
        return Ipo(self)


class Ipo(PairObjective[IpoConfig]):
    """Implements `pair_loss`."""

    def __init__(self, config: IpoConfig) -> None:
        super().__init__(config)
        self.beta = config.beta

    def pair_loss(self, pairs: Pairs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """(h − 1/(2β))²."""
        return square_loss(pairs.h, self.config.beta), {}
