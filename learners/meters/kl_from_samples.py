"""KL between two policies, estimated from answers that one of them gave.

Given log-probs of the same answers under both policies; gives the mean over answers of the difference summed over each
answer, the k1 estimator on whole sequences:  KL(π‖π_ref) ≈ mean over y ~ π of Σ_t [log π(y_t) − log π_ref(y_t)].

The answers must come from π, the new policy, at the temperature of the log-probs: on answers of the other one the
same sum estimates −KL(π_ref‖π). The end token is part of an answer; an answer cut at the token limit has none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raylign.rollout.sample import FloatArray


@dataclass(frozen=True)
class SampledKl:
    """KL(π‖π_ref) in nats per answer."""

    mean: float
    standard_error: float
    """Of the mean; NaN for a single answer."""
    per_answer: tuple[float, ...]
    """Single answers may be below 0; their mean over many is not."""


def kl_from_samples(logps: Sequence[FloatArray], reference_logps: Sequence[FloatArray]) -> SampledKl:
    """`logps`, `reference_logps`: (T,) for each answer, over its own tokens, end token included."""
    if not logps:
        raise ValueError("KL from samples needs at least one answer of the new policy")
    if len(logps) != len(reference_logps):
        raise ValueError(f"{len(logps)} answers under the policy, {len(reference_logps)} under the reference")
    sums = []
    for number, (logps_T, reference_T) in enumerate(zip(logps, reference_logps, strict=True)):
        if len(logps_T) != len(reference_T):
            raise ValueError(
                f"answer {number}: {len(logps_T)} log-probs under the policy, {len(reference_T)} under the reference; "
                "both must read the same tokens"
            )
        total = float(np.sum(np.asarray(logps_T, np.float64) - np.asarray(reference_T, np.float64)))
        if not math.isfinite(total):
            raise ValueError(f"answer {number}: its log-ratio is {total}; a log-prob is not finite")
        sums.append(total)
    mean = math.fsum(sums) / len(sums)
    squares = math.fsum((value - mean) ** 2 for value in sums)
    error = math.sqrt(squares / (len(sums) - 1) / len(sums)) if len(sums) > 1 else math.nan
    return SampledKl(mean, error, tuple(sums))
