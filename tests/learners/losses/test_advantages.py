"""Group advantages against published and hand-worked numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from raylign.learners.losses.advantages import group_advantages

REWARDS = np.array([1, 0, 0.5, 0], np.float32)


@pytest.mark.parametrize(
    ("scale", "epsilon", "expected"),
    [
        ("group", 1e-6, [1.305580, -0.783348, 0.261116, -0.783348]),
        ("group", 1e-4, [1.305310, -0.783186, 0.261062, -0.783186]),
        ("none", 1e-6, [0.625, -0.375, 0.125, -0.375]),
    ],
)
def test_advantages_of_one_group(scale: str, epsilon: float, expected: list[float]) -> None:
    [advantages] = group_advantages([REWARDS], scale, epsilon)  # type: ignore[arg-type]
    assert advantages == pytest.approx(expected, abs=2e-6)
    assert advantages.sum() == pytest.approx(0, abs=1e-6)


def test_batch_scale_divides_by_the_std_of_all_rewards() -> None:
    # rewards 1, 0, 0, 0: mean 1/4, unbiased variance (9/16 + 3/16) / 3 = 1/4, std 1/2
    first, second = group_advantages([np.array([1.0, 0]), np.array([0.0, 0])], "batch", 0.0)
    assert first == pytest.approx([1, -1])
    assert second.tolist() == [0, 0]


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_all_equal_groups_get_exactly_zero_also_with_rounding_noise(scale: str) -> None:
    noisy: Any = np.array([0.1 + 0.2, 0.3, 0.3], np.float64)
    large = np.array([1000.0001, 1000.0, 1000.0], np.float32)
    for advantages in group_advantages([noisy, large, np.ones(4, np.float32)], scale):  # type: ignore[arg-type]
        assert not advantages.any()


def test_failed_rewards_are_left_out_of_mean_and_std_and_get_zero() -> None:
    [with_failure] = group_advantages([np.array([1, np.nan, 0, 0.5, 0], np.float32)])
    [without] = group_advantages([REWARDS])
    assert with_failure[1] == 0
    assert with_failure[[0, 2, 3, 4]] == pytest.approx(without[[0, 1, 2, 3]])


def test_a_group_with_one_or_no_scored_completion_teaches_nothing() -> None:
    one, none = group_advantages([np.array([np.nan, 3.0]), np.array([np.nan, np.nan])])
    assert one.tolist() == [0, 0]
    assert none.tolist() == [0, 0]
    assert group_advantages([]) == []
