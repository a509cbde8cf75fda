"""The mismatch meter: how far the learner's log-probs are from those that the engine sampled with.

Given log π_old (learner, start of the update) and log π_roll (engine) on the tokens trained, and the weights that a
correction made of them; gives sums, maxima and minima that combine over micro-batches and ranks, and the numbers made
of them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SHARE = "mismatch/effective_sample_size_share"
"""Of the ratios before any correction: one token whose ratio is far off is enough to spoil it."""
WEIGHTED_SHARE = "mismatch/weighted_sample_size_share"
"""Of the weights that the correction gives the tokens, cut to its cap or left out: what the update makes of them."""


def mismatch_metrics(
    old_logps: torch.Tensor,
    rollout_logps: torch.Tensor,
    loss_mask: torch.Tensor,
    sequence_index: torch.Tensor,
    sequence_lengths: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Over the unmasked tokens, before any correction; keys as `Algorithm.loss` returns them, with ρ = π_old/π_roll."""
    import torch

    with torch.no_grad():
        mask = loss_mask.double()
        old, rollout = old_logps.double() * mask, rollout_logps.double() * mask
        log_ratio = old - rollout
        ratio = log_ratio.exp() * mask
        means = torch.zeros_like(sequence_lengths, dtype=torch.float64).index_add(0, sequence_index, log_ratio)
        geometric = (means / sequence_lengths.clamp(min=1)).exp() * (sequence_lengths > 0)
        return {
            "mismatch/mean_abs_logp_difference/sum": log_ratio.abs().sum(),
            "mismatch/max_abs_logp_difference/max": log_ratio.abs().max(),
            "mismatch/mean_ratio/sum": ratio.sum(),
            "mismatch/max_ratio/max": ratio.max(),
            "mismatch/min_ratio/min": torch.where(mask > 0, ratio, math.inf).min(),
            "mismatch/ratio_squared/sum": ratio.square().sum(),
            "mismatch/geometric_mean_ratio/sum": geometric.sum(),
            "mismatch/old/sum": old.sum(),
            "mismatch/rollout/sum": rollout.sum(),
            "mismatch/old_squared/sum": old.square().sum(),
            "mismatch/rollout_squared/sum": rollout.square().sum(),
            "mismatch/product/sum": (old * rollout).sum(),
        }


def weight_metrics(weights: torch.Tensor, loss_mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Sums over a correction's (N,) weights of the tokens in the loss."""
    counted = weights.double() * loss_mask.double()
    return {"mismatch/weight/sum": counted.sum(), "mismatch/weight_squared/sum": counted.square().sum()}


def finish_mismatch(means: dict[str, float], tokens_per_sequence: float) -> None:
    """Turn token means of the sums above into the metrics of a step, in place."""
    if "mismatch/mean_ratio" not in means:
        return
    means["mismatch/geometric_mean_ratio"] *= tokens_per_sequence
    means[SHARE] = effective_sample_size_share(means["mismatch/mean_ratio"], means.pop("mismatch/ratio_squared"))
    if "mismatch/weight" in means:
        mean, mean_squared = means.pop("mismatch/weight"), means.pop("mismatch/weight_squared")
        means[WEIGHTED_SHARE] = effective_sample_size_share(mean, mean_squared)
    old, rollout = means.pop("mismatch/old"), means.pop("mismatch/rollout")
    old_variance = means.pop("mismatch/old_squared") - old**2
    rollout_variance = means.pop("mismatch/rollout_squared") - rollout**2
    covariance = means.pop("mismatch/product") - old * rollout
    if old_variance > 1e-12 and rollout_variance > 1e-12:
        means["mismatch/logp_correlation"] = covariance / math.sqrt(old_variance * rollout_variance)


def effective_sample_size_share(mean_ratio: float, mean_squared_ratio: float) -> float:
    """(Σρ)² / (N·Σρ²) from the means of ρ and ρ²: 1 when learner and engine agree, towards 0 when few tokens
    dominate.
    """
    return mean_ratio**2 / mean_squared_ratio if mean_squared_ratio > 0 else 0.0
