"""Scores and selection: acceptance 1, 2, 3 and 9 of the specification, with its numbers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from pydantic import ValidationError

from raylign.jobs.synthetic.selection import (
    NoRowSelected,
    ScoredRow,
    SelectionConfig,
    histogram,
    probabilities,
    select,
)
from raylign.learners.losses.advantages import group_advantages

COUNTS = {"s1": 0, "s2": 8, "s3": 1, "s4": 4, "s5": 7, "s6": 3, "s7": 1, "s8": 0, "s9": 8, "s10": 5}
ROWS = [ScoredRow(row_id, num_right, 8) for row_id, num_right in COUNTS.items()]


def kept(num_wanted: int, **keys: object) -> list[str]:
    return list(select(ROWS, num_wanted, SelectionConfig.model_validate(keys)).row_ids)


def test_scores_are_those_of_the_paper() -> None:
    ones = dict.fromkeys(["s1", "s2", "s8", "s9"], 1.0)
    learnable = {"s3": 0.125, "s7": 0.125, "s6": 0.375, "s4": 0.5, "s10": 0.625, "s5": 0.875}
    assert {row.row_id: row.score for row in ROWS} == learnable | ones


@pytest.mark.parametrize("policy", ["exclude", "demote"])
def test_rarely_solved_rows_come_first(policy: str) -> None:
    assert kept(4, unsolved_policy=policy) == ["s3", "s7", "s6", "s4"]


def test_promoted_rows_come_before_them() -> None:
    assert kept(4, unsolved_policy="promote") == ["s1", "s8", "s3", "s7"]


def test_too_few_rows_are_reported_and_not_made_up() -> None:
    selection = select(ROWS, 9, SelectionConfig())
    assert list(selection.row_ids) == ["s3", "s7", "s6", "s4", "s10", "s5"]
    assert selection.shortfall is not None
    assert "6 rows are kept of the 9" in selection.shortfall and "6 of 10 are solved sometimes" in selection.shortfall
    assert select(ROWS, 6, SelectionConfig()).shortfall is None


def test_demoted_rows_follow_in_the_order_of_the_rows() -> None:
    assert kept(9, unsolved_policy="demote") == ["s3", "s7", "s6", "s4", "s10", "s5", "s1", "s2", "s8"]


def test_fill_adds_never_solved_before_always_solved_rows() -> None:
    assert kept(9, fill=True) == ["s3", "s7", "s6", "s4", "s10", "s5", "s1", "s8", "s2"]


def test_easy_to_hard_keeps_the_easiest_of_those_solved_sometimes() -> None:
    assert kept(4, easy_to_hard=True) == ["s5", "s10", "s4", "s6"]
    assert kept(3, easy_to_hard=True, unsolved_policy="promote") == ["s1", "s8", "s5"]


def test_probabilities_are_those_of_the_specification() -> None:
    learnable = [row for row in ROWS if row.is_learnable]
    found = dict(zip((row.row_id for row in learnable), probabilities(learnable, SelectionConfig()), strict=True))
    expected = {"s3": 0.259095, "s4": 0.148181, "s5": 0.037267, "s6": 0.185152, "s7": 0.259095, "s10": 0.111210}
    assert found == pytest.approx(expected, abs=5e-7)


def test_probability_sampling_draws_with_these_probabilities_by_seed() -> None:
    config = SelectionConfig(prob_sampling=True)
    selection = select(ROWS, 20_000, config, seed=3)
    shares = {row_id: count / 20_000 for row_id, count in Counter(selection.row_ids).items()}
    assert set(shares) == {"s3", "s4", "s5", "s6", "s7", "s10"} and shares["s3"] == pytest.approx(0.259, abs=0.02)
    assert selection == select(ROWS, 20_000, config, seed=3) != select(ROWS, 20_000, config, seed=4)


def test_no_row_stops_with_the_histogram() -> None:
    rows = [ScoredRow(str(index), 8 * (index > 2), 8) for index in range(10)]
    with pytest.raises(NoRowSelected) as stopped:
        select(rows, 5, SelectionConfig())
    assert "k = 0 of 8: " in str(stopped.value) and "3 rows" in str(stopped.value) and "7 rows" in str(stopped.value)
    with pytest.raises(NoRowSelected, match="there are no scored rows"):
        select([], 5, SelectionConfig(unsolved_policy="promote"))


def test_a_histogram_has_a_bar_for_each_count() -> None:
    assert histogram({0: 1, 3: 4}, 16) == f"k =  0 of 16: {'█' * 10} 1 row\nk =  3 of 16: {'█' * 40} 4 rows"


@pytest.mark.parametrize(
    "keys",
    [
        {"easy_to_hard": True, "prob_sampling": True},
        {"fill": True, "unsolved_policy": "demote"},
        {"fill": True, "prob_sampling": True},
        {"unsolved_policy": "ignore"},
    ],
)
def test_keys_that_contradict_each_other_are_refused(keys: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SelectionConfig.model_validate(keys)


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="row a: 9 right of 8"):
        ScoredRow("a", 9, 8)
    with pytest.raises(ValueError, match=r"different numbers of answers \(\[8, 16\]\)"):
        select([ScoredRow("a", 1, 8), ScoredRow("b", 1, 16)], 1, SelectionConfig())


def test_advantages_of_a_group_with_a_rewarded_form_are_those_of_the_specification() -> None:
    mixed, equal = group_advantages([np.array([1, 0, 0, 0.1]), np.array([0.1, 0.1, 0.1, 0.1])])
    assert mixed == pytest.approx([1.492913, -0.566277, -0.566277, -0.360358], abs=1e-6)
    assert not equal.any()
