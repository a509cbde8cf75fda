"""How many engines are wanted, by numbers worked out by hand."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from raylign.rollout.autoscale import AutoscaleConfig, StepLoad, wanted_engines

CONFIG = AutoscaleConfig(min_engines=1, max_engines=8, patience_steps=2)


def load(num_engines: int, wait: float, fill: float = 0.3) -> StepLoad:
    return StepLoad(num_engines, wait, fill)


def test_a_learner_that_waits_gets_the_engines_that_it_waits_for() -> None:
    assert wanted_engines(CONFIG, [load(3, 0.4)] * 2, 3) == 5  # 3 / (1 - 0.4)
    assert wanted_engines(CONFIG, [load(3, 0.9)] * 2, 3) == 6  # at most twice as many at once
    assert wanted_engines(CONFIG, [load(7, 0.4)] * 2, 7) == 8  # max_engines


def test_where_the_learner_never_waits_and_the_log_is_full_one_of_four_leaves() -> None:
    assert wanted_engines(CONFIG, [load(8, 0.0, 0.9)] * 2, 8) == 6
    assert wanted_engines(CONFIG, [load(3, 0.1, 0.9)] * 2, 3) == 2
    assert wanted_engines(CONFIG, [load(1, 0.0, 0.9)] * 2, 1) == 1
    assert wanted_engines(CONFIG, [load(3, 0.15, 0.9)] * 2, 3) == 3  # it waits more than half of 0.2
    assert wanted_engines(CONFIG, [load(3, 0.0, 0.6), load(3, 0.0, 0.3)], 3) == 3


def test_one_step_says_nothing_and_steps_must_agree() -> None:
    assert wanted_engines(CONFIG, [], 3) == 3
    assert wanted_engines(CONFIG, [load(3, 0.4)], 3) == 3
    assert wanted_engines(CONFIG, [load(3, 0.4), load(3, 0.1), load(3, 0.4)], 3) == 3
    assert wanted_engines(CONFIG, [load(3, 0.1), load(3, 0.4), load(3, 0.4)], 3) == 5
    assert wanted_engines(CONFIG, [load(2, 0.4), load(3, 0.4)], 3) == 3  # of another number


def test_a_number_that_was_too_few_is_not_gone_back_to_until_that_is_long_ago() -> None:
    config = CONFIG.model_copy(update={"remember_steps": 10})
    history = [load(2, 0.4)] * 2 + [load(3, 0.0, 0.9)] * 2
    assert wanted_engines(config, history, 3) == 3
    assert wanted_engines(config, history + [load(3, 0.0, 0.9)] * 8, 3) == 2
    once = [load(2, 0.4), load(2, 0.0)] + [load(3, 0.0, 0.9)] * 2  # one step of two is no proof
    assert wanted_engines(config, once, 3) == 2


def test_it_comes_to_rest() -> None:
    """Steps with so much work are measured with the wanted number, again and again."""
    for work in (0.3, 1.0, 1.5, 2.5, 4.0, 6.5, 7.9):  # engines that would be busy all the time
        for start in range(1, 9):
            numbers, history = [start], list[StepLoad]()
            for _ in range(60):
                count = numbers[-1]
                history.append(load(count, max(0.0, 1 - count / work), 1.0 if count > work else 0.3))
                numbers.append(wanted_engines(CONFIG, history, count))
            assert len(set(numbers[-30:])) == 1, (work, numbers)
            assert numbers[-1] == max(1, min(8, numbers[-1])) and numbers[-1] >= 0.8 * work, (work, numbers)
            assert numbers[-1] <= work + 1, (work, numbers)


def test_a_number_outside_the_bounds_comes_back_inside() -> None:
    config = AutoscaleConfig(min_engines=2, max_engines=4)
    assert [wanted_engines(config, [], count) for count in (1, 3, 9)] == [2, 3, 4]


def test_bounds_that_cross_are_refused() -> None:
    with pytest.raises(ValidationError, match="min_engines is 3, more than max_engines = 2"):
        AutoscaleConfig(min_engines=3, max_engines=2)
