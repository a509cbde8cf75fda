"""KL from samples against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from raylign.learners.meters.kl_from_samples import kl_from_samples


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_kl_is_the_mean_of_sums_over_sequences_not_of_token_means() -> None:
    logps = [floats(-1, -0.5, -2, -0.1), floats(-0.3, -0.3)]
    reference = [floats(-1.2, -0.9, -2.5, -0.1), floats(-0.1, -0.6)]
    found = kl_from_samples(logps, reference)
    assert found.per_answer == pytest.approx((1.1, 0.1), abs=1e-6)
    assert found.mean == pytest.approx(0.600000, abs=1e-6)
    assert found.standard_error == pytest.approx(0.5, abs=1e-6)


def test_answers_of_the_wrong_model_give_a_negative_number_that_is_no_kl() -> None:
    rng = np.random.default_rng(0)
    new, old = np.log([0.7, 0.2, 0.1]), np.log([0.2, 0.3, 0.5])
    exact = float(np.sum(np.exp(new) * (new - old)))
    of_new, of_old = rng.choice(3, 40_000, p=np.exp(new)), rng.choice(3, 40_000, p=np.exp(old))
    right = kl_from_samples([new[[token]] for token in of_new], [old[[token]] for token in of_new])
    wrong = kl_from_samples([new[[token]] for token in of_old], [old[[token]] for token in of_old])
    assert right.mean == pytest.approx(exact, abs=4 * right.standard_error)
    assert wrong.mean < 0


def test_answers_that_do_not_match_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="at least one answer"):
        kl_from_samples([], [])
    with pytest.raises(ValueError, match="2 answers under the policy, 1 under the reference"):
        kl_from_samples([floats(-1), floats(-1)], [floats(-1)])
    with pytest.raises(ValueError, match="answer 1: 2 log-probs under the policy, 1 under the reference"):
        kl_from_samples([floats(-1), floats(-1, -2)], [floats(-1), floats(-1)])
    with pytest.raises(ValueError, match="answer 0: its log-ratio is inf"):
        kl_from_samples([floats(-1)], [floats(-math.inf)])
