"""Soft labels from scores."""

from __future__ import annotations

import pytest

from raylign.rewards.pair_scores import bradley_terry_probability


@pytest.mark.parametrize(
    ("chosen", "rejected", "probability"),
    [(2.3, 1.1, 0.768525), (-0.5, 0.25, 0.320821), (3, 3, 0.5), (-8, 4, 0.000006)],
)
def test_the_probability_that_chosen_is_better(chosen: float, rejected: float, probability: float) -> None:
    assert bradley_terry_probability([chosen], [rejected]) == pytest.approx(probability, abs=1e-6)


def test_repeats_average_probabilities_not_scores() -> None:
    assert bradley_terry_probability([1, 3], [0, 0]) == pytest.approx(0.841816, abs=1e-6)
