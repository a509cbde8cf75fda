"""BoNBoN: imitate the best of n samples at the price of one (Gui et al. 2024, arXiv 2406.00832).

Given best and worst of n; α·(−log π(best)) + (1−α)·(h − 1/(2β))², with β from n in closed form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from raylign.learners.algorithms.facts import RunRows
from raylign.learners.algorithms.preference.pairs import PairConfig, PairExamples, PairObjective, Pairs
from raylign.learners.examples.example import Example
from raylign.learners.losses.best_of_n_theory import best_of_n_beta
from raylign.learners.losses.preference import logistic_loss, square_loss
from raylign.rollout.sample import PreferencePair

if TYPE_CHECKING:
    import torch


class BonbonConfig(PairConfig):
    """Best-of-n imitation from best and worst of n."""

    name: Literal["bonbon"] = "bonbon"
    """Which algorithm this is."""
    n: int = Field(8, ge=2)
    """How many samples each pair is best and worst of; rows that say another number are refused."""
    alpha: float = Field(0.005, ge=0, le=1)
    """Weight of the likelihood of the best answer; the contrast of best and worst gets the rest."""
    beta: float | None = Field(None, gt=0)
    """The contrast pulls the log-ratio margin to 1/(2 beta); empty: the closed form for n."""
    contrastive: Literal["square", "logistic"] = "square"
    """square: the paper's. logistic: what the published code trains in its place, for comparison only."""
    sft_per_token: bool = False
    """Divide the likelihood of the best answer by its length (not in the paper)."""

    def build_objective(self, max_staleness: int = 0, rows: RunRows | None = None) -> Bonbon:
        return Bonbon(self)

    def build_examples(
        self, seed: int = 0, rows_per_step: int = 1, reward_weights: Mapping[str, float] | None = None
    ) -> BonbonExamples:
        return BonbonExamples(self.n)


class Bonbon(PairObjective[BonbonConfig]):
    """Implements `pair_loss`."""

    def __init__(self, config: BonbonConfig) -> None:
        super().__init__(config)
        self.beta = config.beta or best_of_n_beta(config.n)

    def pair_loss(self, pairs: Pairs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """α·SFT + (1−α)·contrast."""
        sft = -pairs.chosen_logps
        if self.config.sft_per_token:
            sft = sft / pairs.chosen_lengths.clamp(min=1)
        if self.config.contrastive == "square":
            contrast = square_loss(pairs.h, self.beta)
        else:
            contrast = logistic_loss(self.beta * pairs.h, pairs.h.new_ones(len(pairs.h)))
        alpha = self.config.alpha
        return alpha * sft + (1 - alpha) * contrast, {
            "bonbon/sft_loss": sft.detach(),
            "bonbon/contrastive_loss": contrast.detach(),
            "bonbon/log_ratio_margin": pairs.h.detach(),
        }


class BonbonExamples(PairExamples):
    """Refuses pairs of another n."""

    def __init__(self, n: int) -> None:
        self._n = n

    def from_pairs(self, pairs: Sequence[PreferencePair], is_training: bool = True) -> list[Example]:
        for pair in pairs:
            if pair.num_drawn not in (None, self._n):
                raise ValueError(
                    f"prompt {pair.prompt.prompt_id}: best and worst of {pair.num_drawn} samples, but algorithm.n is "
                    f"{self._n}: beta would be wrong; set algorithm.n to {pair.num_drawn}, or use its file"
                )
        return super().from_pairs(pairs, is_training)
