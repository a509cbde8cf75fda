"""IPO: a margin of fixed size (Azar et al. 2023, arXiv 2310.12036).

Given preference pairs; (h − 1/(2β))² with summed log-probs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from raylign.learners.algorithms.preference.pairs import PairAlgorithm, PairConfig, Pairs
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


class Ipo(PairAlgorithm[IpoConfig]):
    """Implements `pair_loss`."""

    def __init__(
        self, config: IpoConfig, max_staleness: int = 0, reward_weights: Mapping[str, float] | None = None
    ) -> None:
        super().__init__(config, max_staleness, reward_weights)
        self.beta = config.beta
        self.needs_reference = not config.reference_free

    def pair_loss(self, pairs: Pairs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """(h − 1/(2β))²."""
        return square_loss(pairs.h, self.config.beta), {}
