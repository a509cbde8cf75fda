"""Values as distances from their mean in standard deviations.

Given the finite values of one group (or of a batch); gives z-scores with the unbiased std. The advantages of learners
and the rewards that mix several scores are both made of them.
"""

from __future__ import annotations

import numpy as np


def z_scores(values: np.ndarray, epsilon: float, std: float | None = None) -> np.ndarray:
    """(x − mean) / (std + ε); the values' own std where none is given.

    Exactly 0 where all are equal, also under rounding noise that a division by a tiny std would blow up.
    """
    values = values.astype(np.float64)
    if all_equal(values):
        return np.zeros_like(values)
    return (values - values.mean()) / ((unbiased_std(values) if std is None else std) + epsilon)


def all_equal(values: np.ndarray) -> bool:
    """Whether values differ by no more than float32 rounding noise; true for fewer than two."""
    if len(values) < 2:
        return True
    return bool(np.ptp(values) <= 1e-6 * max(1.0, float(np.abs(values).max())))


def unbiased_std(values: np.ndarray) -> float:
    """0 for fewer than two."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0
