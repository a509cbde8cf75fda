"""Scores of both answers of a pair as the probability that the first is better.

Given repeated scores of chosen and rejected answers; gives Bradley-Terry probabilities, the soft labels `bt_prob`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def bradley_terry_probability(chosen_scores: Sequence[float], rejected_scores: Sequence[float]) -> float:
    """Mean over repeats of σ(chosen − rejected): the mean of probabilities, not the probability of the mean."""
    differences = np.asarray(chosen_scores, np.float64) - np.asarray(rejected_scores, np.float64)
    return float(np.mean(0.5 * (1 + np.tanh(differences / 2))))
