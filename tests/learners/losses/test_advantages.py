"""Group advantages against published and hand-worked numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from raylign.learners.losses.advantages import (
    all_equal,
    group_advantages,
    leave_one_out,
    returns_with_kl,
    several_reward_advantages,
    whitened,
)

REWARDS = np.array([1, 0, 0.5, 0], np.float32)


def array(values: list[float]) -> np.ndarray:
    return np.array(values, np.float32)


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


def test_epsilon_is_added_to_the_std_of_the_batch_too() -> None:
    # std ½ as above, plus ½
    first, second = group_advantages([np.array([1.0, 0]), np.array([0.0, 0])], "batch", 0.5)
    assert first == pytest.approx([0.5, -0.5])
    assert second.tolist() == [0, 0]


def test_leave_one_out_of_two_is_the_difference_and_of_one_is_nothing() -> None:
    pair, single, failed = leave_one_out([np.array([3.0, 1.0]), np.array([5.0]), np.array([2.0, np.nan, 0.0])])
    assert pair.tolist() == [2, -2] and pair.dtype == np.float32
    assert single.tolist() == [0]
    assert failed.tolist() == [2, 0, -2]


def two_rewards() -> list[dict[str, np.ndarray]]:
    """In each group one reward tells the answers apart and the other does not; `b` is four times as large."""
    return [
        {"a": np.array([1.0, 0.0]), "b": np.array([2.0, 2.0])},
        {"a": np.array([0.0, 0.0]), "b": np.array([0.0, 4.0])},
    ]


@pytest.mark.parametrize(
    ("settings", "first", "second"),
    [
        # each reward's std takes its size away: ±√½ and 2·∓√½, batch variance (2·½ + 2·2)/3, std 1.290994
        ({}, 0.547723, -1.095445),
        # ½/(√½ + 1) and 2·2/(√8 + 1), batch std √(2.354853/3) + 1
        ({"epsilon": 1.0}, 0.155301, -0.553993),
        # ½ and 2·2: batch variance (½ + 32)/3, std 3.291403
        ({"scale": "none"}, 0.151911, -1.215288),
    ],
    ids=str,
)
def test_several_rewards_are_normalised_one_by_one_and_then_together(
    settings: dict[str, Any], first: float, second: float
) -> None:
    found = several_reward_advantages(two_rewards(), {"a": 1.0, "b": 2.0}, **settings)
    assert found[0] == pytest.approx([first, -first], abs=2e-6)
    assert found[1] == pytest.approx([second, -second], abs=2e-6)
    assert all(advantages.dtype == np.float32 for advantages in found)


def test_a_completion_that_one_reward_failed_on_is_left_out_of_all() -> None:
    rewards = [{"a": np.array([1.0, np.nan, 0.0]), "b": np.array([0.0, np.nan, 0.0])}]
    [found] = several_reward_advantages(rewards, {"a": 1.0, "b": 1.0})
    assert found == pytest.approx([0.707106, 0, -0.707106], abs=2e-6)  # without it `b` has no spread


def test_a_reward_that_does_not_apply_adds_nothing_and_takes_nothing_away() -> None:
    """Rows of two tasks, each with a reward of its own, and one completion that `b` does not apply to."""
    nan = np.nan
    rewards = [
        {"a": np.array([1.0, 0.0]), "b": np.array([nan, nan])},
        {"a": np.array([nan, nan]), "b": np.array([0.0, 1.0])},
    ]
    first, second = several_reward_advantages(rewards, {"a": 1.0, "b": 1.0})
    assert first == pytest.approx([0.866025, -0.866025], abs=2e-6)  # ±√½ over the std of four of them, √⅔
    assert second == pytest.approx([-0.866025, 0.866025], abs=2e-6)
    [partly] = several_reward_advantages(
        [{"a": np.array([0.0, 0.0, 3.0]), "b": np.array([0.0, 1.0, nan])}], {"a": 1.0, "b": 1.0}, "none"
    )
    # a: −1, −1, 2; b: −½, ½, nothing; together −1.5, −½, 2 with std 1.802776
    assert partly == pytest.approx([-0.832050, -0.277350, 1.109400], abs=2e-6)


def test_several_rewards_of_one_completion_or_of_none_teach_nothing() -> None:
    assert several_reward_advantages([], {"a": 1.0}) == []
    [found] = several_reward_advantages([{"a": np.array([3.0])}], {"a": 1.0})
    assert found.tolist() == [0]


def test_a_masked_token_costs_no_kl() -> None:
    old, reference = np.array([-1, -2, -3], np.float32), np.array([-2, -1, -1], np.float32)  # k1 = 1, −1, −2
    returns = returns_with_kl(1.0, old, reference, np.array([1, 0, 1], np.float32), 0.1)
    assert returns == pytest.approx([1.1, 1.2, 1.2]) and returns.dtype == np.float32


def test_whitening_counts_only_tokens_in_the_loss() -> None:
    # over 1 and 3: mean 2, variance 1
    found = whitened([array([1.0, 50.0]), array([3.0])], [array([1.0, 0.0]), array([1.0])])
    assert [values.tolist() for values in found] == [pytest.approx([-1, 48]), pytest.approx([1])]
    assert all(values.dtype == np.float32 for values in found)


def test_whitening_of_a_tiny_spread_is_damped_by_epsilon() -> None:
    # variance 1e-8 and ε 1e-8: (0 − 1e-4)/√2e-8
    [found] = whitened([array([0.0, 2e-4])], [array([1.0, 1.0])])
    assert found == pytest.approx([-0.707107, 0.707107], abs=1e-6)


def test_whitening_of_equal_values_gives_zeros_of_the_same_shape() -> None:
    first, second = whitened([array([2.0, 7.0]), array([2.0])], [array([1.0, 0.0]), array([1.0])])
    assert (first.tolist(), second.tolist()) == ([0, 0], [0])
    assert first.dtype == second.dtype == np.float32


def test_whitening_refuses_masks_of_another_batch() -> None:
    with pytest.raises(ValueError, match="zip"):
        whitened([array([1.0]), array([2.0])], [array([1.0])])


def test_rounding_noise_is_a_millionth_of_the_largest_reward_but_at_least_of_one() -> None:
    assert all_equal(np.array([0.0, 1e-6]))  # at the bound
    assert not all_equal(np.array([0.0, 1.5e-6]))
    assert all_equal(np.array([1000.0, 1000.0005])) and not all_equal(np.array([1000.0, 1000.0015]))
    assert all_equal(np.array([-1000.0, -1000.0005]))
    assert all_equal(np.array([])) and all_equal(np.array([3.0]))


@pytest.mark.parametrize("epsilon", [0.0, 1e-6])
def test_groups_without_spread_get_zero_from_several_rewards_whatever_epsilon_is(epsilon: float) -> None:
    groups = [{"a": np.array([1.0, 1.0, 1.0]), "b": np.array([0.3, 0.3, 0.3])}] * 2
    for advantage_G in several_reward_advantages(groups, {"a": 1.0, "b": 2.0}, epsilon=epsilon):
        assert advantage_G.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("epsilon", [0.0, 1e-6])
@pytest.mark.parametrize("weight", [1e-9, 1.0, 1e6])
def test_rewards_that_cancel_give_zero_and_no_rounding_noise(epsilon: float, weight: float) -> None:
    generator = np.random.default_rng(0)
    rewards = [generator.normal(size=8).astype(np.float32) for _ in range(4)]
    groups = [{"a": reward_G, "b": 3 - 7 * reward_G} for reward_G in rewards]
    for advantage_G in several_reward_advantages(groups, {"a": weight, "b": weight}, epsilon=epsilon):
        assert advantage_G.tolist() == [0.0] * 8


def test_a_group_whose_rewards_cancel_does_not_change_the_others() -> None:
    cancels = {"a": np.array([1.0, 0.0, 2.0]), "b": np.array([-1.0, 0.0, -2.0])}
    teaches = {"a": np.array([1.0, 0.0, 2.0]), "b": np.array([0.0, 0.0, 0.0])}
    first, second = several_reward_advantages([cancels, teaches], {"a": 1.0, "b": 1.0}, epsilon=0.0)
    assert first.tolist() == [0.0, 0.0, 0.0]
    assert second == pytest.approx(np.array([0.0, -1.0, 1.0]) / np.sqrt(2 / 5))
