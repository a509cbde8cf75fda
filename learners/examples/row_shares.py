"""Shares of rows by weight: which pass a gate, which are the best, which the poorest.

Given weights or logits; gives row numbers, the same on every rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from raylign.rollout.sample import FloatArray

if TYPE_CHECKING:
    pass


ROUNDING = 1e-9
"""k = B·(1 − filter_rate) is meant exactly: 10·(1 − 0.7) is 3, not the 2 that binary fractions make of it."""


def num_passing(batch_size: int, filter_rate: float) -> int:
    """k = max(1, ⌊B·(1 − filter_rate)⌋)."""
    return max(1, int(batch_size * (1 - filter_rate) + ROUNDING))


def gate(weights: Sequence[float], filter_rate: float) -> list[float]:
    """(B,) 1 for the k entries of the largest weights, 0 for the others; of equal ones the first pass."""
    passing = sorted(range(len(weights)), key=lambda place: (-weights[place], place))
    gates = [0.0] * len(weights)
    for place in passing[: num_passing(len(weights), filter_rate)]:
        gates[place] = 1.0
    return gates


def top_rows(logits: FloatArray, share: float) -> list[int]:
    """Rows of the top `share` of logits, in their order; of equal ones the first (SEAL's `topp`)."""
    order = np.argsort(-logits, kind="stable")
    return sorted(order[: max(1, int(len(logits) * share + ROUNDING))].tolist())


def bottom_rows(weights: FloatArray, share: float) -> list[int]:
    """The int(N·share) rows of the smallest weights, in their order; of equal ones the first."""
    order = np.argsort(weights, kind="stable")
    return sorted(order[: int(len(weights) * share + ROUNDING)].tolist())
