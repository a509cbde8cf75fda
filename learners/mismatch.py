"""The mismatch meter: how far the learner's log-probs are from those that the engine sampled with.

Given log π_old (learner, start of the update) and log π_roll (engine) on the tokens trained; gives sums that
add up over micro-batches and ranks, the numbers made of them, and token weights for truncated importance
sampling.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def mismatch_metrics(
    old_logps: torch.Tensor, rollout_logps: torch.Tensor, loss_mask: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Sums and maxima over the unmasked tokens; keys as `Algorithm.loss` returns them."""
    import torch

    with torch.no_grad():
        mask = loss_mask.double()
        log_ratio = (old_logps - rollout_logps).double() * mask
        ratio = log_ratio.exp() * mask
        return {
            "mismatch/mean_abs_logp_difference/sum": log_ratio.abs().sum(),
            "mismatch/max_abs_logp_difference/max": log_ratio.abs().max(),
            "mismatch/ratio/sum": ratio.sum(),
            "mismatch/ratio_squared/sum": ratio.square().sum(),
        }


def effective_sample_size_share(mean_ratio: float, mean_squared_ratio: float) -> float:
    """(Σρ)² / (N·Σρ²) from the means of ρ and ρ²: 1 when learner and engine agree, towards 0 when few tokens
    dominate.
    """
    return mean_ratio**2 / mean_squared_ratio if mean_squared_ratio > 0 else 0.0


def truncated_importance_weights(old_logps: torch.Tensor, rollout_logps: torch.Tensor, cap: float) -> torch.Tensor:
    """(N,) min(ρ, C) with ρ = π_old/π_roll, detached: multiplies the policy loss, never the KL (Yao et al. 2025)."""
    import torch

    return torch.exp(old_logps - rollout_logps).clamp(max=cap).detach()
