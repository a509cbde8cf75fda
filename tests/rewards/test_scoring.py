"""Several rewards together: names, weights, failures; and what a badly made reward cannot do."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import numpy as np
import pytest

from raylign.rewards.base import Item, PointwiseReward, Reward, RewardFailure, Score, typed_scores
from raylign.rewards.function import FunctionConfig
from raylign.rewards.registry import AnyRewardConfig, build_reward
from raylign.rewards.rules import ExactConfig, LengthConfig, NumericConfig
from raylign.rewards.scoring import Scorer

ITEM = Item("p", ("5", "5.0", "6"), ("5",), num_tokens=(1, 3, 1))


class Bad(Reward):
    """Does what it is told to, against the contract."""

    def __init__(self, result: list[list[Score]] | Exception) -> None:
        self.result = result
        self.is_closed = False

    def score(self, items: Sequence[Item]) -> list[list[Score]]:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def close(self) -> None:
        self.is_closed = True


class Moody(PointwiseReward):
    def score_one(self, completion: str, item: Item, index: int) -> float:
        return 1 / index


def with_bad(result: list[list[Score]] | Exception) -> Scorer:
    def build(config: AnyRewardConfig) -> Reward:
        return Bad(result) if isinstance(config, ExactConfig) else build_reward(config)

    return Scorer([NumericConfig(), ExactConfig()], build)


def test_total_is_the_weighted_sum_and_repeated_names_are_numbered() -> None:
    scorer = Scorer(
        [
            NumericConfig(weight=2),
            NumericConfig(tolerance=1, weight=0.5),
            ExactConfig(weight=-1),
            LengthConfig(free_tokens=1, max_tokens=5),
        ]
    )
    first, second = scorer.score([ITEM, ITEM])
    assert list(first.rewards) == scorer.names == ["numeric", "numeric_2", "exact", "length"]
    np.testing.assert_array_equal(first.rewards["numeric_2"], [1, 1, 1])
    np.testing.assert_array_equal(first.rewards["length"], [0, -0.5, 0])
    np.testing.assert_array_equal(first.total, [2 + 0.5 - 1, 2 + 0.5 - 0.5, 0.5])
    assert first.total.dtype == first.rewards["exact"].dtype == np.float32
    assert first.failures == ()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(second)).total, first.total)
    scorer.close()


def test_failed_sample_is_nan_in_its_reward_and_in_the_total_and_nowhere_else() -> None:
    failure = RewardFailure("timeout", "late")
    (scored,) = with_bad([[0.0, failure, 2.0]]).score([ITEM])
    np.testing.assert_array_equal(scored.rewards["numeric"], [1, 1, 0])
    np.testing.assert_array_equal(scored.rewards["exact"], [0, np.nan, 2])
    np.testing.assert_array_equal(scored.total, [1, np.nan, 2])
    assert scored.failures == (("exact", failure),)


@pytest.mark.parametrize(
    ("result", "kinds"),
    [
        (RuntimeError("no"), ["exception"] * 3),
        ([[float("nan"), 1.0, float("-inf")]], ["nan", "nan"]),
        ([[1.0]], ["wrong_count"] * 3),
        ([], ["wrong_count"] * 3),
        ([["x", 1.0, None]], ["exception", "exception"]),
    ],
)
def test_reward_that_breaks_its_contract_ends_nothing(result: list[list[Score]] | Exception, kinds: list[str]) -> None:
    (scored,) = with_bad(result).score([ITEM])
    assert [(name, failure.kind) for name, failure in scored.failures] == [("exact", kind) for kind in kinds]
    assert np.isnan(scored.total).sum() == len(kinds)
    np.testing.assert_array_equal(scored.rewards["numeric"], [1, 1, 0])


def test_zero_weight_still_reports_a_failure() -> None:
    scorer = Scorer([NumericConfig(weight=0)])
    (scored,) = scorer.score([Item("p", ("1",))])
    assert np.isnan(scored.total).all() and len(scored.failures) == 1


def test_exception_in_one_completion_fails_that_one() -> None:
    scores = Moody().score([ITEM])[0]
    assert isinstance(scores[0], RewardFailure) and "ZeroDivisionError" in scores[0].message
    assert scores[1:] == [1.0, 0.5]


def test_rewards_already_built_are_closed_when_a_later_one_fails() -> None:
    first = Bad([])

    def build(config: AnyRewardConfig) -> Reward:
        return first if isinstance(config, ExactConfig) else build_reward(config)

    with pytest.raises(ValueError, match="no file"):
        Scorer([ExactConfig(), FunctionConfig(path="nothing.py:reward")], build)
    assert first.is_closed


def test_without_any_reward_the_total_is_zero() -> None:
    (scored,) = Scorer([]).score([ITEM])
    assert scored.rewards == {} and scored.total.tolist() == [0.0] * len(ITEM.completions)


def test_typed_scores_accepts_any_sequence_of_numbers() -> None:
    assert typed_scores(np.array([1, 2]), 2) == [1.0, 2.0]
    assert typed_scores((True, False), 2) == [1.0, 0.0]
    assert [type(score) for score in typed_scores("12", 2)] == [RewardFailure] * 2
    assert typed_scores([], 0) == []
