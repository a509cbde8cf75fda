"""What best-of-n sampling does to a policy, in closed form: its KL, its win rate, and the best that any tilt could do.

Given n, or the strength c of a tilt; gives numbers. Plain arithmetic, so that reports and configs may use it too.

Source: Gui et al. 2024, "BoNBoN Alignment" (arXiv 2406.00832). U is the quantile of an answer's reward among answers
of the base policy π₀ to the same prompt: uniform on (0, 1) where rewards are continuous and draws independent. With
ties, or answers that were de-duplicated, it is not, and none of this holds.

    best of n    π_n ∝ n·U^(n−1)·π₀
    tilt         π_c ∝ exp(c·U)·π₀        the largest win rate that a given KL can buy
"""

from __future__ import annotations

import math

SERIES_BELOW = 1e-2
"""Of c: below it the closed forms lose digits to cancellation, and two terms of their series are exact to 1e-11."""
LARGEST_TILT = 1e9
"""Its KL is 19.7 nats; no measured policy is further from its base."""


def best_of_n_kl(n: int) -> float:
    """KL(π_n‖π₀) = log n − (n−1)/n, the same for every prompt."""
    _check(n)
    return math.log(n) - (n - 1) / n


def best_of_n_win_rate(n: int) -> float:
    """P(an answer of π_n beats one of π₀) = n/(n+1)."""
    _check(n)
    return n / (n + 1)


def best_of_n_margin(n: int) -> float:
    """E[h] = (n−1)·H_{n−1}, H_m = Σ_{k≤m} 1/k: the mean under π_n of h = log π_n/π₀ of the best minus that of the worst
    of n. It is what IPO's target 1/(2β) is set to."""
    _check(n)
    return (n - 1) * math.fsum(1 / k for k in range(1, n))


def best_of_n_margin_variance(n: int) -> float:
    """Var[h] = (n−1)²·Σ_{k<n} 1/k²: what is left of the IPO term at π_n, which can therefore not reach 0 there."""
    _check(n)
    return (n - 1) ** 2 * math.fsum(1 / k**2 for k in range(1, n))


def best_of_n_beta(n: int) -> float:
    """β*_n = 1/(2·(n−1)·H_{n−1}): with it the target 1/(2β) is `best_of_n_margin(n)`."""
    return 1 / (2 * best_of_n_margin(n))


def tilt_win_rate(c: float) -> float:
    """WR(c) = ((c−1)·e^c + 1)/(c·(e^c − 1)), written as 1/(1 − e^−c) − 1/c, which does not overflow."""
    _check_tilt(c)
    if c < SERIES_BELOW:
        return 0.5 + c / 12 - c**3 / 720
    return -1 / math.expm1(-c) - 1 / c


def tilt_kl(c: float) -> float:
    """KL(c) = ((c−1)·e^c + 1)/(e^c − 1) − log((e^c − 1)/c), where the first term is c·WR(c)."""
    _check_tilt(c)
    if c < SERIES_BELOW:
        return c**2 / 24 - c**4 / 960
    return c * tilt_win_rate(c) - (c + math.log(-math.expm1(-c)) - math.log(c))


def tilt_at_kl(kl: float) -> float:
    """The c whose KL is `kl`, by bisection: KL(c) grows with c."""
    if not 0 <= kl <= tilt_kl(LARGEST_TILT):
        raise ValueError(f"kl is {kl}: a tilt has a KL between 0 and {tilt_kl(LARGEST_TILT):.1f} nats")
    low, high = 0.0, 1.0
    while tilt_kl(high) < kl:
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        if tilt_kl(middle) < kl:
            low = middle
        else:
            high = middle
    return high if kl > 0 else 0.0


def best_win_rate_at_kl(kl: float) -> float:
    """The largest win rate that a policy `kl` nats from its base can have."""
    return tilt_win_rate(tilt_at_kl(kl))


def _check(n: int) -> None:
    if n < 2:
        raise ValueError(f"n is {n}: a best and a worst need at least 2 answers")


def _check_tilt(c: float) -> None:
    if not 0 <= c <= LARGEST_TILT:
        raise ValueError(f"c is {c}: allowed are 0 (the base policy) to {LARGEST_TILT:g}")
