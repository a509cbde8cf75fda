"""Estimates with their uncertainty: pass@k and confidence intervals over prompts.

Given how many of a prompt's completions were right; gives estimates and intervals.
Completions of one prompt are not independent, so the prompt is the unit of every interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Unbiased chance that one of k samples is right: 1 - C(n-c, k) / C(n, k), Chen et al. 2021, eq. 1."""
    if not 1 <= k <= num_samples:
        raise ValueError(f"pass@{k} needs at least {k} completions of each prompt, not {num_samples}")
    assert 0 <= num_correct <= num_samples, f"{num_correct} right of {num_samples}"
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def wilson_interval(share: float, num_trials: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share; `num_trials` may be an effective number, not whole."""
    assert 0.0 <= share <= 1.0 and num_trials > 0, f"share {share} of {num_trials} trials"
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    denominator = 1 + z * z / num_trials
    centre = (share + z * z / (2 * num_trials)) / denominator
    half_width = z / denominator * math.sqrt(share * (1 - share) / num_trials + (z / (2 * num_trials)) ** 2)
    # at a share of 0 or 1 the end is exact, and rounding must not move it
    low = 0.0 if share == 0.0 else max(0.0, centre - half_width)
    high = 1.0 if share == 1.0 else min(1.0, centre + half_width)
    return low, high


def clustered_interval(
    shares: Sequence[float], num_samples_per_prompt: int = 1, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Mean of one share for each prompt, and its interval (mean, low, high), with prompts as clusters.

    Wilson's interval on the effective number of trials p(1-p) / Var(mean), where Var(mean) comes from the
    spread between prompts. With one completion for each prompt this is the plain Wilson interval; at 0 or 1,
    where prompts show no spread, each prompt counts once, so the interval never has zero width.
    """
    if not shares:
        raise ValueError("no prompts to take an interval over")
    num_prompts = len(shares)
    mean = min(1.0, max(0.0, math.fsum(shares) / num_prompts))
    variance_of_mean = math.fsum((share - mean) ** 2 for share in shares) / num_prompts**2
    num_trials = float(num_prompts)
    if 0.0 < mean < 1.0:
        largest = float(num_prompts * num_samples_per_prompt)
        num_trials = min(largest, mean * (1 - mean) / variance_of_mean) if variance_of_mean > 0 else largest
    low, high = wilson_interval(mean, num_trials, confidence)
    return mean, low, high
