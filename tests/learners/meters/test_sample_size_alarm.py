"""The alarm of the effective sample size: what it reads, when it begins, how long it lasts, which setting it names."""

from __future__ import annotations

import math

import pytest
import torch

from raylign.learners.losses.corrections import CorrectionConfig, correction_weights
from raylign.learners.meters.metric import Metric, divided, values_of
from raylign.learners.meters.mismatch import SHARE, WEIGHTED_SHARE, finish_mismatch, mismatch_metrics, weight_metrics
from raylign.learners.meters.sample_size_alarm import CALM_STEPS, SampleSizeAlarm

CALM = {WEIGHTED_SHARE: 0.9, "staleness/mean": 2.0}


def measured(ratios: list[float], correction: CorrectionConfig) -> dict[str, float]:
    """The meter's numbers of one-token sequences with these ratios."""
    count = len(ratios)
    old, rollout, mask = torch.tensor(ratios).log(), torch.zeros(count), torch.ones(count)
    index, lengths = torch.arange(count), torch.ones(count)
    weights = correction_weights(correction, old, rollout, mask, index, lengths).weights
    sums = mismatch_metrics(old, rollout, mask, index, lengths) | weight_metrics(weights, mask)
    totals = {name: Metric(metric.value.item(), metric.kind) for name, metric in sums.items()}
    return values_of(finish_mismatch(divided(totals, num_tokens=count, num_units=1), tokens_per_sequence=1))


def test_one_token_far_off_spoils_the_ratios_but_not_the_weights() -> None:
    # 99 tokens of ratio 1 and one of 101: (99 + 101)² / (100 · (99 + 101²)) = 40,000 / 1,030,000
    # with the cap of 5: (99 + 5)² / (100 · (99 + 25)) = 10,816 / 12,400
    found = measured([1.0] * 99 + [101.0], CorrectionConfig(kind="decoupled"))
    assert found[SHARE] == pytest.approx(40_000 / 1_030_000, rel=1e-5)
    assert found[WEIGHTED_SHARE] == pytest.approx(10_816 / 12_400, rel=1e-5)
    assert SampleSizeAlarm(0.5, 2).after_step(1, found) is None


def test_many_tokens_far_off_spoil_the_weights_too() -> None:
    # 90 tokens of ratio 0.5 and ten of 5: (45 + 50)² / (100 · (22.5 + 250)) = 9,025 / 27,250
    found = measured([0.5] * 90 + [5.0] * 10, CorrectionConfig(kind="decoupled"))
    assert found[WEIGHTED_SHARE] == pytest.approx(9_025 / 27_250, rel=1e-5)
    assert SampleSizeAlarm(0.5, 2).after_step(1, found) is not None


def test_tokens_that_a_correction_leaves_out_do_not_count() -> None:
    # of ten tokens six are over the cap of 2: 4² / (10 · 4)
    found = measured([1.0] * 4 + [3.0] * 6, CorrectionConfig(kind="token_mask"))
    assert found[WEIGHTED_SHARE] == pytest.approx(0.4)
    nothing_left = measured([3.0] * 6, CorrectionConfig(kind="token_mask"))
    assert nothing_left[WEIGHTED_SHARE] == 0.0


def test_only_tokens_in_the_loss_are_weighed() -> None:
    sums = weight_metrics(torch.tensor([2.0, 1.0, 7.0]), torch.tensor([1.0, 1.0, 0.0]))
    assert {name: (metric.value.item(), metric.kind) for name, metric in sums.items()} == {
        "mismatch/weight": (3.0, "token_sum"),
        "mismatch/weight_squared": (5.0, "token_sum"),
    }


def test_an_alarm_says_once_that_it_begins_and_once_that_it_is_over() -> None:
    alarm = SampleSizeAlarm(0.5, max_staleness=2)
    low = {WEIGHTED_SHARE: 0.3, "staleness/mean": 2.0, "mismatch/truncated_share": 0.125}
    assert alarm.after_step(1, {WEIGHTED_SHARE: 0.5}) is None  # at the threshold is not below it
    begins = alarm.after_step(2, low)
    assert begins is not None
    assert "only 30% of its tokens" in begins
    assert "algorithm.correction.alarm_below is 50%" in begins
    assert "cuts 12.5% of them to its cap" in begins
    assert "lower async.max_staleness (now 2) or learner.learning_rate" in begins
    assert alarm.after_step(3, low | {WEIGHTED_SHARE: 0.25}) is None
    assert alarm.after_step(4, CALM) is None
    assert alarm.after_step(5, low) is None
    assert [alarm.after_step(6 + calm, CALM) for calm in range(CALM_STEPS - 1)] == [None] * (CALM_STEPS - 1)
    assert alarm.after_step(5 + CALM_STEPS, CALM) == (
        "the effective sample size alarm is over: 3 of the steps 2 to 5, lowest 25%"
    )
    assert alarm.after_step(6 + CALM_STEPS, CALM) is None
    assert alarm.at_end() is None
    again = alarm.after_step(30, low)
    assert again is not None
    assert alarm.at_end() == "the effective sample size alarm lasted to the end of the run: step 30, lowest 30%"


def test_steps_that_measure_nothing_change_nothing() -> None:
    alarm = SampleSizeAlarm(0.5, max_staleness=0)
    assert alarm.after_step(1, {}) is None
    assert alarm.after_step(2, {SHARE: 0.1}) is not None
    assert [alarm.after_step(step, {"learner/num_tokens": 0.0}) for step in range(3, 20)] == [None] * 17
    assert alarm.at_end() is not None


def test_fresh_samples_point_at_the_engine_and_a_missing_correction_is_named() -> None:
    said = SampleSizeAlarm(0.5, max_staleness=0).after_step(1, {SHARE: 0.3, "staleness/mean": 0.0})
    assert said is not None
    assert "rollout.engine.dtype" in said
    assert "async.max_staleness (now" not in said
    assert "no algorithm.correction weighs them" in said


def test_a_threshold_of_nothing_never_alarms() -> None:
    assert SampleSizeAlarm(0.0, 2).after_step(1, {WEIGHTED_SHARE: 0.0}) is None
    assert math.isclose(measured([1.0, 1.0], CorrectionConfig(kind="token_truncate"))[WEIGHTED_SHARE], 1.0)
