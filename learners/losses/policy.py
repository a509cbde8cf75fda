"""Losses as pure functions: policy losses, KL estimators, negative log-likelihood, token weights.

Given flat (N,) tensors over the completion tokens of a micro-batch; gives per-token losses and the weights
that add them up.

Symbols: π_θ the policy being updated (`logps`), π_old the learner at the start of the update (`old_logps`),
π_ref the frozen reference, r = π_θ/π_old, A the advantage, ε the clip range. All losses are minimised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import torch

    from raylign.learners.examples.example import Normalizers

Aggregation = Literal["token_mean", "seq_mean_token_mean", "seq_mean_token_sum_norm"]
"""How token losses become one number; see `token_weights`."""
KlEstimator = Literal["k1", "k2", "k3"]
"""With d = logπ_θ − logπ_ref: k1 = d, k2 = d²/2, k3 = exp(−d) + d − 1."""


class PolicyLoss(NamedTuple):
    """Per-token policy loss, and where clipping took the gradient away."""

    loss: torch.Tensor
    """(N,)"""
    clipped_low: torch.Tensor
    """(N,) bool: A < 0 and r < 1 − ε_low."""
    clipped_high: torch.Tensor
    """(N,) bool: A > 0 and r > 1 + ε_high; CISPO: r over its cap, where the gradient is capped but stays."""


def policy_loss(
    logps: torch.Tensor,
    old_logps: torch.Tensor,
    advantages: torch.Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> PolicyLoss:
    """PPO's clipped loss, token by token: −min(r·A, clip(r, 1 − ε_low, 1 + ε_high)·A) (arXiv 1707.06347 eq. 7).

    `clip_high` apart from `clip_low` is DAPO's (arXiv 2503.14476 eq. 8). With `dual_clip` c > 1 the loss of
    tokens with A < 0 is capped at −c·A (arXiv 1912.09729 eq. 5).
    """
    import torch

    ratio = torch.exp(logps - old_logps)
    loss = torch.maximum(-ratio * advantages, -ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)
    if dual_clip is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -dual_clip * advantages), loss)
    with torch.no_grad():
        clipped_low = (ratio < 1 - clip_low) & (advantages < 0)
        clipped_high = (ratio > 1 + clip_high) & (advantages > 0)
    return PolicyLoss(loss, clipped_low, clipped_high)


def sequence_policy_loss(
    logps: torch.Tensor,
    old_logps: torch.Tensor,
    advantages: torch.Tensor,
    loss_mask: torch.Tensor,
    sequence_index: torch.Tensor,
    sequence_lengths: torch.Tensor,
    clip_low: float,
    clip_high: float,
    token_level: bool = False,
) -> PolicyLoss:
    """PPO's clipped loss on the sequence ratio s = exp(mean of log r over its tokens) (GSPO, arXiv 2507.18071 eq. 5).

    Every token of a sequence holds the sequence's loss: aggregate with seq_mean_token_mean. `token_level` is
    GSPO-token: the value of s, with the gradient of the token's own ratio, so that tokens may differ in advantage.
    """
    import torch

    log_ratio = logps - old_logps
    means = torch.zeros_like(sequence_lengths).index_add(0, sequence_index, log_ratio * loss_mask)
    log_s = (means / sequence_lengths.clamp(min=1))[sequence_index]
    if token_level:
        log_s = log_s.detach() + logps - logps.detach()
    return policy_loss(log_s, torch.zeros_like(log_s), advantages, clip_low, clip_high)


def capped_ratio_loss(
    logps: torch.Tensor, old_logps: torch.Tensor, advantages: torch.Tensor, ratio_cap: float
) -> PolicyLoss:
    """−sg(min(r, cap))·A·log π_θ (CISPO, arXiv 2506.13585, upper bound only): no token loses its gradient."""
    import torch

    ratio = torch.exp(logps.detach() - old_logps)
    never = torch.zeros_like(ratio, dtype=torch.bool)
    return PolicyLoss(-ratio.clamp(max=ratio_cap) * advantages * logps, never, ratio > ratio_cap)


def reinforce_loss(logps: torch.Tensor, advantages: torch.Tensor) -> PolicyLoss:
    """−A·log π_θ; nothing is clipped."""
    import torch

    never = torch.zeros_like(logps, dtype=torch.bool)
    return PolicyLoss(-advantages * logps, never, never)


def kl(
    logps: torch.Tensor, reference_logps: torch.Tensor, estimator: KlEstimator, clamp: float | None = None
) -> torch.Tensor:
    """(N,) estimate of KL(π_θ‖π_ref) on tokens sampled from π_θ (joschu.net/blog/kl-approx.html).

    Differentiated as a loss, only k2 has the gradient of KL(π_θ‖π_ref); k3 has that of KL(π_ref‖π_θ), k1 none.
    `clamp` bounds |d|: k3 grows with exp(−d), and one token must not decide a step.
    """
    import torch

    d = logps - reference_logps
    if clamp is not None:
        d = d.clamp(-clamp, clamp)
    if estimator == "k1":
        return d
    if estimator == "k2":
        return d.square() / 2
    return torch.expm1(-d) + d


def nll(logps: torch.Tensor) -> torch.Tensor:
    """(N,) negative log-likelihood of demonstrations."""
    return -logps


def token_weights(
    aggregation: Aggregation,
    loss_mask: torch.Tensor,
    sequence_index: torch.Tensor,
    sequence_lengths: torch.Tensor,
    normalizers: Normalizers,
    norm_constant: float | None = None,
) -> torch.Tensor:
    """(N,) weights w such that Σ w·loss over all micro-batches and ranks is the aggregated loss of the global batch.

    - token_mean: mask / tokens of the global batch (DAPO eq. 8);
    - seq_mean_token_mean: mask / (tokens of its sequence × sequences) (GRPO, arXiv 2402.03300 eq. 3);
    - seq_mean_token_sum_norm: mask / (`norm_constant` × sequences) (Dr. GRPO, arXiv 2503.20783).

    `sequence_lengths`: (S,) tokens in the loss of each sequence of this micro-batch; `sequence_index`: (N,) into it.
    Global denominators, never those of the micro-batch: otherwise the loss would depend on the split.
    """
    if aggregation == "token_mean":
        return loss_mask / normalizers.num_tokens
    if aggregation == "seq_mean_token_mean":
        return loss_mask / (sequence_lengths.clamp(min=1)[sequence_index] * normalizers.num_sequences)
    assert norm_constant is not None, "seq_mean_token_sum_norm needs norm_constant"
    return loss_mask / (norm_constant * normalizers.num_sequences)
