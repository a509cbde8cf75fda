"""Losses on preference pairs as pure functions.

Given h, the difference of the two answers' summed log-ratios; gives the loss of each pair.

Symbols: y_w the chosen and y_l the rejected answer, π₀ the frozen reference,
    h = [log π(y_w) − log π₀(y_w)] − [log π(y_l) − log π₀(y_l)],    z = β·h,    F = log σ(z).
Log-probs of an answer are summed over its tokens, end token included. All losses are minimised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

BISECTIONS = 60


def logistic_loss(z: torch.Tensor, probability: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """(P,) −q·log σ(z) − (1−q)·log σ(−z) (DPO, arXiv 2305.18290 eq. 7; soft labels and smoothing as in cDPO).

    `probability`: (P,) that the label is right; smoothing ε turns it into q = (1−ε)·probability + ε·(1−probability).
    """
    from torch.nn.functional import logsigmoid

    q = (1 - label_smoothing) * probability + label_smoothing * (1 - probability)
    return -q * logsigmoid(z) - (1 - q) * logsigmoid(-z)


def square_loss(h: torch.Tensor, beta: float) -> torch.Tensor:
    """(P,) (h − 1/(2β))² (IPO, arXiv 2310.12036 eq. 17)."""
    return (h - 1 / (2 * beta)).square()


def self_label_loss(z: torch.Tensor, coefficient: torch.Tensor) -> torch.Tensor:
    """(P,) −F − ½·c·F²: labels that the policy itself gave move with it (SAIL, arXiv 2406.15567; its gradient term
    E[F·∇log P(label)] = ∇E[½F²])."""
    from torch.nn.functional import logsigmoid

    f = logsigmoid(z)
    return -f - 0.5 * coefficient * f.square()


def response_term(
    z: torch.Tensor,
    chosen_logps: torch.Tensor,
    rejected_logps: torch.Tensor,
    coefficient: torch.Tensor,
    baseline: float = 0.0,
) -> torch.Tensor:
    """(P,) −c·sg(F − baseline)·(log π(y_w) + log π(y_l)): answers that the policy itself gave move with it (SAIL).
    Its value means nothing; its gradient is that of the distribution of answers."""
    from torch.nn.functional import logsigmoid

    return -coefficient * (logsigmoid(z).detach() - baseline) * (chosen_logps + rejected_logps)


def published_response_term(
    z: torch.Tensor,
    chosen_logps: torch.Tensor,
    rejected_logps: torch.Tensor,
    coefficient: torch.Tensor,
    num_pairs: float,
) -> torch.Tensor:
    """(P,) a term with the gradient that SAIL's published code adds in place of `response_term`: −c·F/log π(y) to each
    answer's log-prob, not divided by the batch. F and log π are negative, so it raises both answers."""
    from torch.nn.functional import logsigmoid

    f = logsigmoid(z).detach()
    slopes = f / chosen_logps.detach() * chosen_logps + f / rejected_logps.detach() * rejected_logps
    return -coefficient * num_pairs * slopes


def robust_probability(probability: torch.Tensor, z: torch.Tensor, radius: float) -> torch.Tensor:
    """(P,) the label probability p within KL(Bern(p)‖Bern(q)) ≤ radius that makes the loss largest: the smallest one
    where z > 0, else the largest. By bisection, without a gradient."""
    import torch

    q = probability.detach().double().clamp(1e-12, 1 - 1e-12)
    inside, outside = q.clone(), torch.where(z.detach() > 0, torch.zeros_like(q), torch.ones_like(q))
    for _ in range(BISECTIONS):
        middle = (inside + outside) / 2
        divergence = torch.special.xlogy(middle, middle / q) + torch.special.xlogy(1 - middle, (1 - middle) / (1 - q))
        fits = divergence <= radius
        inside, outside = torch.where(fits, middle, inside), torch.where(fits, outside, middle)
    return inside.to(probability.dtype)
