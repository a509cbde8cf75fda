"""A run does not go on over scores that fail, and no accuracy is reported over nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from raylign.jobs.run.metrics import evaluation_metrics, rollout_metrics, undocumented
from raylign.jobs.run.pair_evaluation import evaluation_words
from raylign.jobs.run.reward_failures import RewardFailures, RewardsFailedError
from raylign.rollout.sample import Completion, Failure, Group, Prompt

NAN = float("nan")


def group(*totals: float, words: str = "no key") -> Group:
    ids = np.zeros(1, np.int32)
    answer = Completion(ids, np.zeros(1, np.float32), (), "stop", "a")
    total_G = np.array(totals, np.float32)
    failures = tuple(Failure("exception", "mine", words) for total in totals if np.isnan(total) and words)
    prompt = Prompt("0", 0, "q", ids)
    return Group(prompt, (answer,) * len(totals), {"mine": total_G}, total_G, failures)


def test_a_step_in_which_every_score_failed_stops_with_the_last_failures_words() -> None:
    failed = [group(NAN, NAN), group(NAN, NAN, words="the key has run out")]
    with pytest.raises(
        RewardsFailedError, match=r"step 3: every one of 4 scores failed .*mine: exception: the key has"
    ):
        RewardFailures(0.5).check_step(failed, 2)
    RewardFailures(0.5).check_step([*failed, group(1.0, NAN)], 2)
    RewardFailures(1.0).check_step(failed, 2)


def test_more_than_the_allowed_share_of_twenty_groups_stops() -> None:
    failures = RewardFailures(0.5)
    for number in range(20):
        failures.add(group(NAN, NAN) if number % 2 else group(1.0, 0.0), 0)
    with pytest.raises(RewardsFailedError, match=r"step 1: 22 of 40 scores of the last 20 groups failed"):
        failures.add(group(NAN, NAN), 0)


def test_few_groups_and_scores_that_do_not_apply_stop_nothing() -> None:
    failures = RewardFailures(0.0)
    for _ in range(40):
        failures.add(group(NAN, NAN, words=""), 0)
    for _ in range(19):
        failures.add(group(NAN, NAN), 0)
    failures.check_step([group(NAN, words="")], 0)


def test_an_accuracy_over_nothing_is_not_measured() -> None:
    metrics = evaluation_metrics([group(NAN, NAN), group(NAN, NAN)])
    assert "evaluation/accuracy" not in metrics and "evaluation/pass_at_1" not in metrics
    assert metrics["evaluation/failure_share"] == 1.0 and metrics["evaluation/num_prompts"] == 2
    assert "not measured" in evaluation_words(metrics)
    partly = evaluation_metrics([group(NAN, NAN), group(1.0, 1.0), group(1.0, NAN), group(0.0, NAN)])
    assert partly["evaluation/accuracy"] == pytest.approx(2 / 3), "what could not be scored is not wrong but unknown"
    assert partly["evaluation/unmeasured_prompts"] == 1 and partly["evaluation/failure_share"] == 0.5
    assert "1 of 4 prompts could not be scored and are left out" in evaluation_words(partly)
    assert undocumented(partly) == []
    assert "rollout/accuracy" not in rollout_metrics([group(NAN, NAN)])


def test_samples_that_a_reward_does_not_apply_to_are_counted_apart_from_failures() -> None:
    metrics = rollout_metrics([group(1.0, NAN, words=""), group(1.0, NAN)])
    assert metrics["reward/failure_share"] == 0.25 and metrics["reward/mine/not_applicable_share"] == 0.25
    assert undocumented(metrics) == []


def test_of_several_rewards_only_completions_that_one_failed_on_count() -> None:
    scored = group(1.0, NAN, NAN, 0.0, words="")
    by_name = {"a": np.array([1, NAN, NAN, NAN], np.float32), "b": np.array([NAN, NAN, NAN, 0], np.float32)}
    none_applies = dataclasses.replace(scored, rewards=by_name)
    assert rollout_metrics([none_applies])["reward/failure_share"] == 0.0
    one_failed = dataclasses.replace(none_applies, failures=(Failure("timeout", "b", "slow"),))
    assert rollout_metrics([one_failed])["reward/failure_share"] == 0.25
    both = (Failure("timeout", "b", "slow"),) * 2
    assert rollout_metrics([dataclasses.replace(none_applies, failures=both)])["reward/failure_share"] == 0.5
