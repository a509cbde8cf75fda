"""The mismatch meter: how far the learner's log-probs are from those that the engine sampled with.

Given log π_old (learner, start of the update) and log π_roll (engine) on the tokens trained, and the weights that a
correction made of them; gives sums, maxima and minima that combine over micro-batches and ranks, and the numbers made
of them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from raylign.learners.meters.metric import Metric, PassMetrics, StepMetrics, maximum, minimum, token_sum

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
) -> PassMetrics:
    """Over the unmasked tokens, before any correction; as `Objective.loss` gives metrics, with ρ = π_old/π_roll."""
    import torch

    with torch.no_grad():
        mask = loss_mask.double()
        old, rollout = old_logps.double() * mask, rollout_logps.double() * mask
        log_ratio = old - rollout
        ratio = log_ratio.exp() * mask
        means = torch.zeros_like(sequence_lengths, dtype=torch.float64).index_add(0, sequence_index, log_ratio)
        geometric = (means / sequence_lengths.clamp(min=1)).exp() * (sequence_lengths > 0)
        return {
            "mismatch/mean_abs_logp_difference": token_sum(log_ratio.abs().sum()),
            "mismatch/max_abs_logp_difference": maximum(log_ratio.abs().max()),
            "mismatch/mean_ratio": token_sum(ratio.sum()),
            "mismatch/max_ratio": maximum(ratio.max()),
            "mismatch/min_ratio": minimum(torch.where(mask > 0, ratio, math.inf).min()),
            "mismatch/ratio_squared": token_sum(ratio.square().sum()),
            "mismatch/geometric_mean_ratio": token_sum(geometric.sum()),
            "mismatch/old": token_sum(old.sum()),
            "mismatch/rollout": token_sum(rollout.sum()),
            "mismatch/old_squared": token_sum(old.square().sum()),
            "mismatch/rollout_squared": token_sum(rollout.square().sum()),
            "mismatch/product": token_sum((old * rollout).sum()),
        }


def weight_metrics(weights: torch.Tensor, loss_mask: torch.Tensor) -> PassMetrics:
    """Over a correction's (N,) weights of the tokens in the loss."""
    counted = weights.double() * loss_mask.double()
    return {
        "mismatch/weight": token_sum(counted.sum()),
        "mismatch/weight_squared": token_sum(counted.square().sum()),
    }


def finish_mismatch(metrics: StepMetrics, tokens_per_sequence: float) -> StepMetrics:
    """The metrics of a step, given token means of the sums above among others; those others as they are."""
    if "mismatch/mean_ratio" not in metrics:
        return metrics
    rest = dict(metrics)
    mean_ratio, geometric = rest["mismatch/mean_ratio"].value, rest["mismatch/geometric_mean_ratio"].value
    rest["mismatch/geometric_mean_ratio"] = Metric(geometric * tokens_per_sequence, "mean")
    share = effective_sample_size_share(mean_ratio, rest.pop("mismatch/ratio_squared").value)
    rest[SHARE] = Metric(share, "mean")
    if "mismatch/weight" in rest:
        mean, mean_squared = rest.pop("mismatch/weight").value, rest.pop("mismatch/weight_squared").value
        rest[WEIGHTED_SHARE] = Metric(effective_sample_size_share(mean, mean_squared), "mean")
    old, rollout = rest.pop("mismatch/old").value, rest.pop("mismatch/rollout").value
    old_variance = rest.pop("mismatch/old_squared").value - old**2
    rollout_variance = rest.pop("mismatch/rollout_squared").value - rollout**2
    covariance = rest.pop("mismatch/product").value - old * rollout
    if old_variance > 1e-12 and rollout_variance > 1e-12:
        correlation = covariance / math.sqrt(old_variance * rollout_variance)
        rest["mismatch/logp_correlation"] = Metric(correlation, "mean")
    return rest


def effective_sample_size_share(mean_ratio: float, mean_squared_ratio: float) -> float:
    """(Σρ)² / (N·Σρ²) from the means of ρ and ρ²: 1 when learner and engine agree, towards 0 when few tokens
    dominate.
    """
    return mean_ratio**2 / mean_squared_ratio if mean_squared_ratio > 0 else 0.0
