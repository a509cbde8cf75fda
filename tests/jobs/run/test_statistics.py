"""pass@k and intervals against numbers worked out by hand."""

import pytest

from raylign.jobs.run.statistics import clustered_interval, pass_at_k, wilson_interval


def test_pass_at_k_is_one_minus_the_chance_of_drawing_only_wrong_ones() -> None:
    assert pass_at_k(5, 1, 1) == pytest.approx(1 / 5)
    assert pass_at_k(5, 2, 2) == pytest.approx(1 - 3 / 10)  # C(3,2)=3 of C(5,2)=10 pairs are all wrong
    assert pass_at_k(10, 3, 5) == pytest.approx(1 - 21 / 252)  # C(7,5)=21 of C(10,5)=252
    assert pass_at_k(8, 0, 4) == 0.0
    assert pass_at_k(8, 8, 1) == 1.0
    assert pass_at_k(8, 5, 4) == 1.0  # only three wrong ones: four draws cannot miss


def test_pass_at_k_beyond_the_number_of_completions_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 4"):
        pass_at_k(3, 1, 4)


def test_wilson_interval_matches_the_textbook_values() -> None:
    # z = 1.959964: 8 of 10 -> (0.4902, 0.9433); 0 of 10 -> (0, z²/(10+z²)) = (0, 0.2775)
    assert wilson_interval(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_interval(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)


def test_one_completion_for_each_prompt_gives_the_plain_wilson_interval() -> None:
    mean, low, high = clustered_interval([1.0] * 8 + [0.0] * 2)
    assert mean == pytest.approx(0.8)
    assert (low, high) == pytest.approx(wilson_interval(0.8, 10))


def test_completions_that_agree_within_a_prompt_count_once() -> None:
    alike = clustered_interval([1.0, 0.0] * 10, num_samples_per_prompt=8)
    assert alike == pytest.approx((0.5, *wilson_interval(0.5, 20)))
    # without any spread between prompts all 160 completions count, and never more
    spread = clustered_interval([0.5] * 20, num_samples_per_prompt=8)
    assert spread == pytest.approx((0.5, *wilson_interval(0.5, 160)))


def test_an_interval_at_the_edge_has_width() -> None:
    assert clustered_interval([1.0] * 10, 8) == pytest.approx((1.0, 0.7225, 1.0), abs=1e-4)
