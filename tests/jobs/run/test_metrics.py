"""Metrics of a handful of groups, against numbers counted by hand."""

import numpy as np
import pytest

from raylign.jobs.run.metrics import (
    METRICS,
    describe,
    deterministic_view,
    evaluation_metrics,
    rollout_metrics,
    undocumented,
)
from raylign.learners.algorithms.base import ExampleMaker
from raylign.rollout.sample import Completion, Failure, Group, Prompt, StopReason, VersionSpan


def completion(num_tokens: int, stop_reason: StopReason = "stop") -> Completion:
    return Completion(
        np.arange(num_tokens, dtype=np.int32),
        np.full(num_tokens, -0.5, dtype=np.float32),
        (VersionSpan(0, 0, num_tokens),),
        stop_reason,
        "text",
    )


UNSCORED = (Failure("exception", "exact", "no key"),)


def group(ordinal: int, rewards: list[float], lengths: list[int], bonus: float = 0.0) -> Group:
    """A group with rewards `exact` and `bonus`; length 9 is the token limit."""
    prompt = Prompt(f"p-{ordinal}", ordinal, "2 + 3 =", np.array([1, 2], dtype=np.int32), ("5",))
    exact_G = np.array(rewards, dtype=np.float32)
    return Group(
        prompt,
        tuple(completion(length, "length" if length == 9 else "stop") for length in lengths),
        {"exact": exact_G, "bonus": np.full(len(rewards), bonus, dtype=np.float32)},
        exact_G + bonus,
        UNSCORED * int(np.isnan(exact_G).sum()),
    )


GROUPS = [
    group(0, [1.0, 0.0, 0.0, 1.0], [2, 4, 9, 1]),
    group(1, [0.0, 0.0, 0.0, 0.0], [3, 3, 9, 9]),
    group(2, [1.0, np.nan, 1.0, 1.0], [1, 1, 1, 1]),
]


def test_rollout_metrics_are_counted_over_completions_and_groups() -> None:
    metrics = rollout_metrics(GROUPS, ExampleMaker())
    assert metrics["reward/mean"] == pytest.approx(5 / 11)  # 11 completions have a reward
    assert metrics["reward/std"] == pytest.approx(np.sqrt(5 / 11 * 6 / 11))
    assert metrics["reward/exact/mean"] == pytest.approx(5 / 11)
    assert metrics["reward/bonus/mean"] == 0.0
    assert metrics["reward/failure_share"] == pytest.approx(1 / 12)
    assert metrics["reward/zero_variance_share"] == pytest.approx(2 / 3)
    assert metrics["rollout/accuracy"] == pytest.approx(5 / 11)
    assert metrics["rollout/completion_length_mean"] == pytest.approx(44 / 12)
    assert metrics["rollout/truncated_share"] == pytest.approx(3 / 12)
    assert metrics["rollout/tokens"] == 44
    assert metrics["rollout/failed_groups"] == 0


def test_a_group_without_completions_is_counted_and_changes_nothing_else() -> None:
    failed = Group(GROUPS[0].prompt, (), failures=(Failure("engine", "engine", "out of memory"),))
    assert rollout_metrics([*GROUPS, failed]) == {**rollout_metrics(GROUPS), "rollout/failed_groups": 1.0}
    assert rollout_metrics([failed]) == {"rollout/tokens": 0.0, "rollout/failed_groups": 1.0}


def test_evaluation_counts_an_unanswered_prompt_as_wrong() -> None:
    failed = Group(GROUPS[0].prompt, ())
    metrics = evaluation_metrics([*GROUPS, failed], pass_at=[2, 4])
    assert metrics["evaluation/accuracy"] == pytest.approx((0.5 + 0 + 1 + 0) / 4)
    assert metrics["evaluation/accuracy_low"] < 0.375 < metrics["evaluation/accuracy_high"]
    # pass@2: 1 - C(2,2)/C(4,2) = 5/6, 0, three scored of which three are right: 1, 0; four were scored in two groups
    assert metrics["evaluation/pass_at_2"] == pytest.approx((5 / 6 + 0 + 1 + 0) / 4)
    assert metrics["evaluation/pass_at_4"] == pytest.approx((1 + 0 + 0) / 3)
    assert metrics["evaluation/num_prompts"] == 4


def test_what_counts_as_correct_is_the_total_reward() -> None:
    # float32 sums: 0 + 0.1 is below 0.2, 1 + 0.1 is right from 1.1 on
    groups = [group(0, [1.0, 0.0], [1, 1], bonus=0.1)]
    assert evaluation_metrics(groups, correct_from=1.1)["evaluation/accuracy"] == 0.5
    assert evaluation_metrics(groups, correct_from=0.1)["evaluation/accuracy"] == 1.0
    assert evaluation_metrics(groups, correct_from=1.2)["evaluation/accuracy"] == 0.0


def test_every_key_that_is_made_here_is_documented() -> None:
    assert undocumented({**rollout_metrics(GROUPS, ExampleMaker()), **evaluation_metrics(GROUPS)}) == []
    assert undocumented(["reward/my reward/mean", "evaluation/pass_at_16", "learner/lss"]) == ["learner/lss"]
    assert len({metric.key for metric in METRICS}) == len(METRICS)
    metric = describe("reward/exact/mean")
    assert metric is not None and metric.key == "reward/<name>/mean"


def test_the_deterministic_view_drops_what_depends_on_the_clock() -> None:
    metrics = {
        "step": 3.0,
        "seconds": 1.5,
        "reward/mean": 0.5,
        "rollout/tokens_per_s": 900.0,
        "time/step_s": 0.5,
        "idle/learner_share": 0.25,
        "weights/pause_s": 0.01,
        "weights/version": 3.0,
    }
    assert deterministic_view(metrics) == {"step": 3.0, "reward/mean": 0.5, "weights/version": 3.0}


def test_every_clock_key_says_so_in_its_name() -> None:
    for metric in METRICS:
        named = metric.key.startswith(("time/", "idle/")) or metric.key.endswith(("_s", "seconds"))
        assert metric.from_clock == named, metric.key
