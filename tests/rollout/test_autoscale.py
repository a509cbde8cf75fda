"""How many engines are wanted, by numbers worked out by hand."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from raylign.rollout.autoscale import AutoscaleConfig, StepLoad, wanted_engines

CONFIG = AutoscaleConfig(min_engines=1, max_engines=8, patience_steps=2)
TOO_FEW, TOO_MANY, JUST_RIGHT = StepLoad(0.4, 0.0), StepLoad(0.0, 0.7), StepLoad(0.1, 0.2)


def test_a_learner_that_waits_gets_the_engines_that_it_waits_for() -> None:
    assert wanted_engines(CONFIG, [TOO_FEW] * 2, 3) == 5  # 3 / (1 - 0.4)
    assert wanted_engines(CONFIG, [StepLoad(0.9, 0.0)] * 2, 3) == 6  # at most twice as many at once
    assert wanted_engines(CONFIG, [TOO_FEW] * 2, 7) == 8  # max_engines


def test_engines_without_work_leave() -> None:
    assert wanted_engines(CONFIG, [StepLoad(0.0, 0.5)] * 2, 8) == 5  # 8 * 0.5 / 0.8
    assert wanted_engines(CONFIG, [TOO_MANY] * 2, 8) == 4  # at most half at once
    assert wanted_engines(CONFIG, [TOO_MANY] * 2, 1) == 1


def test_one_step_says_nothing_and_steps_must_agree() -> None:
    assert wanted_engines(CONFIG, [], 3) == 3
    assert wanted_engines(CONFIG, [TOO_FEW], 3) == 3
    assert wanted_engines(CONFIG, [TOO_FEW, JUST_RIGHT, TOO_FEW], 3) == 3
    assert wanted_engines(CONFIG, [TOO_FEW, TOO_MANY], 3) == 3
    assert wanted_engines(CONFIG, [JUST_RIGHT, TOO_FEW, TOO_FEW], 3) == 5


def test_nothing_changes_between_the_thresholds_nor_where_both_wait() -> None:
    assert wanted_engines(CONFIG, [JUST_RIGHT] * 5, 3) == 3
    assert wanted_engines(CONFIG, [StepLoad(0.5, 0.5)] * 5, 3) == 3  # they take turns: neither is too few


def test_what_a_change_leads_to_is_not_turned_around() -> None:
    """A load of so much work is measured with the wanted number, again and again."""
    for work in (0.3, 1.0, 2.5, 4.0, 6.5, 7.9):  # engines that would be busy all the time
        for start in range(1, 9):
            numbers = [start]
            for _ in range(12):
                count = numbers[-1]
                load = StepLoad(max(0.0, 1 - count / work), max(0.0, 1 - work / count))
                numbers.append(wanted_engines(CONFIG, [load] * 2, count))
            assert numbers[-1] == numbers[-2] == numbers[-3], (work, numbers)
            assert numbers in (sorted(numbers), sorted(numbers, reverse=True)), (work, numbers)


def test_a_number_outside_the_bounds_comes_back_inside() -> None:
    config = AutoscaleConfig(min_engines=2, max_engines=4)
    assert [wanted_engines(config, [], count) for count in (1, 3, 9)] == [2, 3, 4]


def test_bounds_that_cross_are_refused() -> None:
    with pytest.raises(ValidationError, match="min_engines is 3, more than max_engines = 2"):
        AutoscaleConfig(min_engines=3, max_engines=2)
