"""Losses against hand-worked numbers and published formulas (fixture A: four answers of 3, 2, 4 and 3 tokens)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from raylign.learners.examples.example import Normalizers
from raylign.learners.losses.advantages import group_advantages
from raylign.learners.losses.policy import (
    capped_ratio_loss,
    kl,
    nll,
    policy_loss,
    reinforce_loss,
    sequence_policy_loss,
    token_weights,
)

LENGTHS = [3, 2, 4, 3]
LOGPS = torch.tensor([-0.2, -1, -0.5, -0.7, -0.3, -1.5, -0.4, -0.1, -0.9, -0.6, -2.2, -0.3])
OLD = torch.tensor([-0.5, -1.1, -0.5, -0.4, -0.6, -1.5, -0.9, -0.1, -0.6, -1, -2, -0.3])
REFERENCE = torch.tensor([-0.4, -0.8, -0.6, -0.5, -0.5, -1.2, -0.6, -0.2, -0.7, -0.9, -1.9, -0.4])
ROLLOUT = torch.tensor([-0.5, -2.1, -0.5, -0.45, -0.6, -1.4, -0.9, -2, -0.6, -0.2, -2, -0.35])
MASK = torch.ones(12)
SEQUENCE = torch.repeat_interleave(torch.arange(4), torch.tensor(LENGTHS))
GLOBAL = Normalizers(num_tokens=12, num_sequences=4)


def advantages(scale: str = "group") -> torch.Tensor:
    import numpy as np

    [advantage_G] = group_advantages([np.array([1, 0, 0.5, 0], np.float32)], scale)  # type: ignore[arg-type]
    return torch.from_numpy(advantage_G)[SEQUENCE]


def weights(aggregation: str, constant: float | None = None) -> torch.Tensor:
    lengths = torch.tensor(LENGTHS, dtype=torch.float32)
    return token_weights(aggregation, MASK, SEQUENCE, lengths, GLOBAL, constant)  # type: ignore[arg-type]


def total(loss: torch.Tensor, aggregation: str, constant: float | None = None) -> float:
    return float((weights(aggregation, constant) * loss).sum())


def test_grpo_loss_has_the_published_numbers() -> None:
    loss = policy_loss(LOGPS, OLD, advantages(), 0.2, 0.2).loss
    with_kl = loss + 0.04 * kl(LOGPS, REFERENCE, "k3")
    assert total(loss, "seq_mean_token_mean") == pytest.approx(0.002710, abs=1e-6)
    assert total(with_kl, "seq_mean_token_mean") == pytest.approx(0.003616, abs=1e-6)
    assert total(loss, "token_mean") == pytest.approx(-0.088898, abs=1e-6)
    assert total(with_kl, "token_mean") == pytest.approx(-0.087979, abs=1e-6)


def test_dr_grpo_divides_by_a_constant() -> None:
    loss = policy_loss(LOGPS, OLD, advantages("none"), 0.2, 0.2).loss
    assert total(loss, "seq_mean_token_sum_norm", 8) == pytest.approx(-0.015959, abs=1e-6)
    assert total(loss, "seq_mean_token_sum_norm", 1) == pytest.approx(-0.127670, abs=1e-6)


def test_dapo_clips_higher_above() -> None:
    result = policy_loss(LOGPS, OLD, advantages(), 0.2, 0.28)
    assert total(result.loss, "token_mean") == pytest.approx(-0.099342, abs=1e-6)
    assert int(result.clipped_low.sum() + result.clipped_high.sum()) == 3


def test_clipped_tokens_have_no_gradient_and_the_others_do() -> None:
    logps = LOGPS.clone().requires_grad_()
    result = policy_loss(logps, OLD, advantages(), 0.2, 0.28)
    result.loss.sum().backward()
    clipped = result.clipped_low | result.clipped_high
    assert logps.grad is not None
    assert torch.equal(logps.grad == 0, clipped)


def test_dual_clip_caps_the_loss_of_bad_tokens() -> None:
    logps, old, advantage = torch.tensor([math.log(5.0)]), torch.zeros(1), torch.tensor([-1.0])
    assert policy_loss(logps, old, advantage, 0.2, 0.2).loss.item() == pytest.approx(5.0)
    assert policy_loss(logps, old, advantage, 0.2, 0.2, dual_clip=3.0).loss.item() == pytest.approx(3.0)


def test_dual_clip_caps_bad_tokens_only_and_in_proportion_to_their_advantage() -> None:
    ratios = torch.tensor([5.0, 2.0, 5.0, 1.0, 0.5, 5.0])
    advantage = torch.tensor([-0.5, -0.5, 0.5, 0.5, 2.0, 0.0])
    found = policy_loss(ratios.log(), torch.zeros(6), advantage, 0.2, 0.2, dual_clip=3.0)
    # bad: 5·½ is cut to 3·½, 2·½ stays; good: −min(r·A, 1.2·A), never as low as −3·A; no advantage: nothing
    assert found.loss.tolist() == pytest.approx([1.5, 1.0, -0.6, -0.5, -1.0, 0.0])
    assert found.clipped_low.tolist() == [False] * 6
    assert found.clipped_high.tolist() == [False, False, True, False, False, False]


def test_dual_clip_off_leaves_bad_tokens_as_they_are() -> None:
    loss = policy_loss(torch.tensor([math.log(100.0)]), torch.zeros(1), torch.tensor([-1.0]), 0.2, 0.2).loss
    assert loss.item() == pytest.approx(100.0)


def test_a_ratio_at_the_bound_is_not_clipped_and_no_advantage_is_never_clipped() -> None:
    at_the_bound = policy_loss(torch.zeros(2), torch.zeros(2), torch.tensor([-1.0, 1.0]), 0.0, 0.0)
    assert not at_the_bound.clipped_low.any() and not at_the_bound.clipped_high.any()
    beyond = torch.tensor([math.log(0.1), math.log(10.0)])
    worthless = policy_loss(beyond, torch.zeros(2), torch.zeros(2), 0.2, 0.2)
    assert not worthless.clipped_low.any() and not worthless.clipped_high.any()


def sequence_loss(logps: torch.Tensor, mask: list[float], index: list[int], lengths: list[float]) -> torch.Tensor:
    """GSPO's loss at advantage −1 and without clipping: the ratio s of each token's sequence."""
    advantage, old = -torch.ones(len(mask)), torch.zeros(len(mask))
    return sequence_policy_loss(
        logps, old, advantage, torch.tensor(mask), torch.tensor(index), torch.tensor(lengths), 1.0, 100.0
    ).loss


def test_the_ratio_of_a_sequence_is_that_of_its_tokens_in_the_loss() -> None:
    # two of three tokens count: (4·1)^½ = 2, where the third's ratio of 32 would make 5.04 of it; one token: its
    # ratio; of a sequence without a token in the loss there is no ratio, so 1
    logps = torch.tensor([4.0, 32.0, 1.0, 3.0, 7.0]).log()
    found = sequence_loss(logps, [1.0, 0.0, 1.0, 1.0, 0.0], [0, 0, 0, 1, 2], [2.0, 1.0, 0.0])
    assert found.tolist() == pytest.approx([2, 2, 2, 3, 1])


def test_a_masked_token_gets_no_gradient_from_the_ratio_of_its_sequence() -> None:
    logps = torch.zeros(3, requires_grad=True)
    first_token = sequence_loss(logps, [1.0, 0.0, 1.0], [0, 0, 0], [2.0])[0]
    first_token.backward()
    assert logps.grad is not None
    # by default one token's loss moves every token of the sequence: ds/dlogπ = s/2 = ½ for each of the two
    assert logps.grad.tolist() == pytest.approx([0.5, 0.0, 0.5])


def test_cispo_flags_what_is_over_its_cap_and_nothing_below() -> None:
    found = capped_ratio_loss(torch.tensor([0.0, math.log(3.0)]), torch.zeros(2), torch.ones(2), 1.0)
    assert found.clipped_high.tolist() == [False, True]  # a ratio at the cap is not over it
    assert found.clipped_low.tolist() == [False, False] and found.clipped_low.dtype == torch.bool


def test_reinforce_clips_nothing_and_weighs_by_the_advantage() -> None:
    found = reinforce_loss(torch.tensor([-0.5, -2.0]), torch.tensor([2.0, -1.0]))
    assert found.loss.tolist() == [1.0, -2.0]
    for clipped in (found.clipped_low, found.clipped_high):
        assert clipped.tolist() == [False, False] and clipped.dtype == torch.bool


def test_a_clamped_kl_bounds_the_difference_on_both_sides() -> None:
    logps, reference = torch.tensor([0.0, -7.0, -1.0]), torch.tensor([-9.0, -1.0, -2.0])  # d = 9, −6, 1
    assert kl(logps, reference, "k1", clamp=2.0).tolist() == [2, -2, 1]
    assert kl(logps, reference, "k2", clamp=2.0).tolist() == pytest.approx([2, 2, 0.5])
    # exp(−d) + d − 1
    assert kl(logps, reference, "k3", clamp=2.0).tolist() == pytest.approx([1.135335, 4.389056, 0.367879], abs=1e-6)


def test_kl_estimators_have_the_published_token_means() -> None:
    means = [float(kl(LOGPS, REFERENCE, estimator).mean()) for estimator in ("k1", "k2", "k3")]
    assert means == pytest.approx([0.0, 0.022500, 0.022954], abs=1e-6)


def expected_kl_gradient(estimator: str) -> tuple[float, Sequence[float]]:
    """Value and logit gradient of E_p[estimator], differentiated as a loss term (samples fixed, p only inside logπ)."""
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.5, 0.3])
    logits = p.log().requires_grad_()
    terms = kl(torch.log_softmax(logits, 0), q.log(), estimator)  # type: ignore[arg-type]
    expectation = (p * terms).sum()
    expectation.backward()
    assert logits.grad is not None
    return expectation.item(), logits.grad.tolist()


def test_only_k2_as_a_loss_has_the_gradient_of_the_reverse_kl() -> None:
    assert expected_kl_gradient("k1")[1] == pytest.approx([0, 0, 0], abs=1e-6)
    value, gradient = expected_kl_gradient("k2")
    assert value == pytest.approx(0.265479, abs=1e-6)
    assert gradient == pytest.approx([0.346243, -0.220389, -0.125854], abs=1e-6)
    value, gradient = expected_kl_gradient("k3")
    assert value == pytest.approx(0.223805, abs=1e-6)
    assert gradient == pytest.approx([0.3, -0.2, -0.1], abs=1e-6)


def test_token_weights_worked_by_hand() -> None:
    mask = torch.tensor([1.0, 1, 0, 1])
    index, lengths = torch.tensor([0, 0, 0, 1]), torch.tensor([2.0, 1.0])
    everywhere = Normalizers(num_tokens=10, num_sequences=5)
    by_token = token_weights("token_mean", mask, index, lengths, everywhere)
    by_sequence = token_weights("seq_mean_token_mean", mask, index, lengths, everywhere)
    by_constant = token_weights("seq_mean_token_sum_norm", mask, index, lengths, everywhere, 4.0)
    torch.testing.assert_close(by_token, torch.tensor([0.1, 0.1, 0, 0.1]))
    torch.testing.assert_close(by_sequence, torch.tensor([0.1, 0.1, 0, 0.2]))
    torch.testing.assert_close(by_constant, torch.tensor([0.05, 0.05, 0, 0.05]))


def test_nll_is_minus_the_log_probability() -> None:
    assert nll(torch.tensor([-0.5, -2.0])).tolist() == [0.5, 2.0]
