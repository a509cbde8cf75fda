"""Closed forms of best-of-n against the published numbers, and against sampling."""

from __future__ import annotations

import math

import numpy as np
import pytest

from raylign.learners.losses.best_of_n_theory import (
    best_of_n_beta,
    best_of_n_kl,
    best_of_n_margin,
    best_of_n_margin_variance,
    best_of_n_win_rate,
    best_win_rate_at_kl,
    tilt_at_kl,
    tilt_kl,
    tilt_win_rate,
)


@pytest.mark.parametrize(
    ("n", "beta", "target", "kl", "win_rate"),
    [
        (2, 0.5000000000, 1.000000, 0.193147, 0.666667),
        (3, 0.1666666667, 3.000000, 0.431946, 0.750000),
        (4, 0.0909090909, 5.500000, 0.636294, 0.800000),
        (8, 0.0275482094, 18.150000, 1.204442, 0.888889),
        (16, 0.0100455193, 49.773435, 1.835089, 0.941176),
        (32, 0.0040049790, 124.844601, 2.496986, 0.969697),
    ],
)
def test_beta_target_kl_and_win_rate_are_the_published_ones(
    n: int, beta: float, target: float, kl: float, win_rate: float
) -> None:
    assert best_of_n_beta(n) == pytest.approx(beta, abs=5e-11)
    assert 1 / (2 * best_of_n_beta(n)) == pytest.approx(target, abs=5e-7)
    assert best_of_n_margin(n) == pytest.approx(target, abs=5e-7)
    assert best_of_n_kl(n) == pytest.approx(kl, abs=5e-7)
    assert best_of_n_win_rate(n) == pytest.approx(win_rate, abs=5e-7)


def test_a_tilt_of_2_has_the_published_kl_and_win_rate() -> None:
    assert tilt_kl(2.0) == pytest.approx(0.151596, abs=5e-7)
    assert tilt_win_rate(2.0) == pytest.approx(0.656518, abs=5e-7)


@pytest.mark.parametrize(
    ("n", "c", "win_rate"), [(2, 2.288641, 0.675907), (4, 4.916908, 0.803996), (8, 9.054541, 0.889675)]
)
def test_the_tilt_at_the_kl_of_best_of_n_wins_a_little_more(n: int, c: float, win_rate: float) -> None:
    assert tilt_at_kl(best_of_n_kl(n)) == pytest.approx(c, abs=5e-7)
    assert best_win_rate_at_kl(best_of_n_kl(n)) == pytest.approx(win_rate, abs=5e-7)
    assert best_win_rate_at_kl(best_of_n_kl(n)) > best_of_n_win_rate(n)


def test_the_gap_to_best_of_n_is_largest_at_2_and_shrinks() -> None:
    gaps = [best_win_rate_at_kl(best_of_n_kl(n)) - best_of_n_win_rate(n) for n in (2, 3, 4, 8, 16, 32)]
    assert gaps[0] == pytest.approx(0.00924, abs=5e-6)
    assert gaps == sorted(gaps, reverse=True)


def test_series_for_weak_tilts_meet_the_closed_forms_and_strong_ones_do_not_overflow() -> None:
    def by_definition(c: float) -> tuple[float, float]:
        e = math.exp(c)
        return ((c - 1) * e + 1) / (c * (e - 1)), ((c - 1) * e + 1) / (e - 1) - math.log((e - 1) / c)

    for c in (0.5, 3.0, 30.0):
        assert (tilt_win_rate(c), tilt_kl(c)) == pytest.approx(by_definition(c), rel=1e-12)
    assert tilt_win_rate(0.01 - 1e-12) == pytest.approx(tilt_win_rate(0.01), abs=1e-11)
    assert tilt_kl(0.01 - 1e-12) == pytest.approx(tilt_kl(0.01), rel=1e-8)
    assert (tilt_win_rate(0.0), tilt_kl(0.0), tilt_at_kl(0.0)) == (0.5, 0.0, 0.0)
    assert tilt_win_rate(1e6) == pytest.approx(1 - 1e-6)
    assert tilt_at_kl(10.0) == pytest.approx(math.exp(11.0), rel=1e-3)  # KL(c) → log c − 1


def test_sampling_agrees_with_the_margin_its_spread_and_the_win_rate() -> None:
    n, num_draws = 8, 400_000
    uniform = np.random.default_rng(8).random((num_draws, n))
    best, worst = uniform.max(axis=1), uniform.min(axis=1)
    h = (n - 1) * (np.log(best) - np.log(worst))
    assert h.mean() == pytest.approx(18.15, abs=0.05)
    assert best_of_n_margin_variance(n) == pytest.approx(74.078, abs=5e-4)
    assert h.std() == pytest.approx(8.607, abs=0.05)
    fresh = np.random.default_rng(9).random(num_draws)
    assert (best > fresh).mean() == pytest.approx(best_of_n_win_rate(n), abs=0.002)


@pytest.mark.parametrize("n", [1, 0, -3])
def test_one_answer_has_no_best_and_worst(n: int) -> None:
    with pytest.raises(ValueError, match=f"n is {n}: a best and a worst need at least 2"):
        best_of_n_beta(n)


def test_impossible_tilts_and_kls_are_refused() -> None:
    with pytest.raises(ValueError, match="c is -1"):
        tilt_kl(-1.0)
    with pytest.raises(ValueError, match=r"kl is -0\.1: a tilt has a KL between 0 and"):
        tilt_at_kl(-0.1)
