"""Reward model: a scorer trained on preference pairs by Bradley-Terry (as in arXiv 2203.02155 eq. 1).

Given preference pairs; −log σ(s(x, y_w) − s(x, y_l)), with soft labels and label smoothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from raylign.learners.algorithms.facts import RunRows
from raylign.learners.algorithms.preference.pairs import PairConfig, PairExamples, PairObjective, Pairs
from raylign.learners.examples.example import Example
from raylign.learners.losses.preference import logistic_loss
from raylign.rollout.sample import IntArray, PreferencePair

if TYPE_CHECKING:
    import torch

NUM_CALIBRATION_BINS = 5
"""Of confidence, from ½ to 1."""


class RewardModelTrainingConfig(PairConfig):
    """A sequence-classification model that scores answers, from preference pairs."""

    name: Literal["reward_model"] = "reward_model"
    """Which algorithm this is."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Share of labels taken for wrong."""

    @property
    def needs_reference(self) -> bool:
        return False

    def build_objective(self, max_staleness: int = 0, rows: RunRows | None = None) -> RewardModelTraining:
        return RewardModelTraining(self)

    def build_examples(
        self, seed: int = 0, rows_per_step: int = 1, reward_weights: Mapping[str, float] | None = None
    ) -> ScorerExamples:
        return ScorerExamples()


class RewardModelTraining(PairObjective[RewardModelTrainingConfig]):
    """Implements `pair_loss`: with scores where log-probs stand otherwise, h is the difference of the two scores."""

    model_kind: Literal["policy", "scorer"] = "scorer"

    def pair_loss(self, pairs: Pairs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """−q·log σ(h) − (1−q)·log σ(−h); calibration: how sure the scorer is against how often it is right.

        `reward_model/gap_k` is mean (confidence − right) in bin k: their absolute values add up to the expected
        calibration error.
        """
        losses = logistic_loss(pairs.h, pairs.facts["probability"], self.config.label_smoothing)
        h = pairs.h.detach()
        confidence = h.abs().sigmoid()
        bins = ((confidence - 0.5) * 2 * NUM_CALIBRATION_BINS).long().clamp(max=NUM_CALIBRATION_BINS - 1)
        gap = confidence - (h > 0).float()
        metrics = {f"reward_model/gap_{k}": gap * (bins == k) for k in range(NUM_CALIBRATION_BINS)}
        return losses, {
            **metrics,
            "reward_model/confidence": confidence,
            "reward_model/brier_score": ((-h).sigmoid()).square(),
        }


class ScorerExamples(PairExamples):
    """Answers with a place for their score."""

    def _answer(self, pair: PreferencePair, unit: int, ids: IntArray, facts: dict[str, float]) -> Example:
        """One more token, never fed, at whose place the score of the whole answer stands."""
        example = super()._answer(pair, unit, np.append(ids, ids[-1]).astype(np.int32), facts)
        mask = np.zeros(len(ids) + 1, np.float32)
        mask[-1] = 1.0
        return replace(example, loss_mask=mask)
