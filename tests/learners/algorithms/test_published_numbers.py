"""Every algorithm and correction against published and hand-worked numbers, from scored group to loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raylign.learners.algorithms.policy_gradient.cispo import CispoConfig
from raylign.learners.algorithms.policy_gradient.dapo import DapoConfig
from raylign.learners.algorithms.policy_gradient.dr_grpo import DrGrpoConfig
from raylign.learners.algorithms.policy_gradient.grpo import GrpoConfig
from raylign.learners.algorithms.policy_gradient.gspo import GspoConfig
from raylign.learners.algorithms.policy_gradient.reinforce_plus_plus import ReinforcePlusPlusConfig
from raylign.learners.algorithms.policy_gradient.rloo import RlooConfig
from raylign.learners.algorithms.registry import AnyAlgorithmConfig
from raylign.learners.examples.from_groups import OverlongConfig, overlong_penalty
from raylign.learners.examples.micro_batch import make_micro_batch, normalizers_of
from raylign.learners.losses.advantages import group_advantages, leave_one_out, returns_with_kl, whitened
from raylign.learners.losses.corrections import CorrectionConfig, correction_weights, loglinear_share
from raylign.learners.losses.policy import sequence_policy_loss
from raylign.learners.meters.metric import Metric, divided, values_of
from raylign.learners.meters.mismatch import finish_mismatch, mismatch_metrics
from raylign.rollout.sample import Completion, Group, Prompt
from tests.learners.algorithms.fixture_a import (
    LOGPS,
    OLD,
    REFERENCE,
    ROLLOUT,
    array,
    examples_a,
    loss_a,
)

PAPER = {"clip_high": 0.2, "aggregation": "seq_mean_token_mean"}
TOKENS = {"clip_high": 0.2}
SEQUENCE = torch.repeat_interleave(torch.arange(4), torch.tensor([3, 2, 4, 3]))
LENGTHS = torch.tensor([3.0, 2, 4, 3])


def flat(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor([value for row in rows for value in row])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (GrpoConfig(**PAPER), 0.002710),
        (GrpoConfig(**PAPER, kl_coef=0.04), 0.003616),
        (GrpoConfig(**TOKENS), -0.088898),
        (GrpoConfig(**TOKENS, kl_coef=0.04), -0.087979),
        (DrGrpoConfig(norm_constant=8), -0.015959),
        (DrGrpoConfig(norm_constant=1), -0.127670),
        (DapoConfig(), -0.099342),
        (GspoConfig(), 0.013344),
        (GspoConfig(token_level=True), 0.013344),
        (RlooConfig(), -0.037500),
        (CispoConfig(), 0.011803),
        (CispoConfig(ratio_cap=1.28), 0.016739),
        (ReinforcePlusPlusConfig(kl_coef=0.01), 0.003552),
    ],
    ids=repr,
)
def test_losses_from_scored_group_to_number(config: AnyAlgorithmConfig, expected: float) -> None:
    assert loss_a(config)[0] == pytest.approx(expected, abs=1e-6)


def test_dapo_clips_three_tokens() -> None:
    metrics = loss_a(DapoConfig())[1]
    assert metrics["learner/clip_fraction_low"] + metrics["learner/clip_fraction_high"] == 3


def test_leave_one_out() -> None:
    [advantages] = leave_one_out([array([1, 0, 0.5, 0])])
    assert advantages == pytest.approx([0.833333, -0.5, 0.166667, -0.5], abs=1e-6)


def test_the_biased_std_is_another_method() -> None:
    # some libraries divide by the biased std; ours is the unbiased one times √(4/3)
    [unbiased] = group_advantages([array([1, 0, 0.5, 0])], epsilon=0)
    assert unbiased * (4 / 3) ** 0.5 == pytest.approx([1.507557, -0.904534, 0.301511, -0.904534], abs=1e-6)


def test_gspo_sequence_ratios_and_rows() -> None:
    logps, old = flat(LOGPS), flat(OLD)
    [advantages] = group_advantages([array([1, 0, 0.5, 0])])
    ones = torch.ones(12)
    unclipped = sequence_policy_loss(logps, old, -ones, ones, SEQUENCE, LENGTHS, 1.0, 1.0).loss
    starts = [0, 3, 5, 9]
    assert unclipped[starts].tolist() == pytest.approx([1.142631, 1.0, 1.051271, 1.068939], abs=1e-6)
    repeated = torch.from_numpy(advantages)[SEQUENCE]
    rows = sequence_policy_loss(logps, old, repeated, ones, SEQUENCE, LENGTHS, 3e-4, 4e-4).loss[starts]
    assert rows.tolist() == pytest.approx([-1.306102, 0.783348, -0.261220, 0.837351], abs=1e-6)


def test_gspo_gradient_of_a_token_is_the_advantage_times_the_ratio_over_the_length() -> None:
    [advantages] = group_advantages([array([1, 0, 0.5, 0])])
    repeated, ones = torch.from_numpy(advantages)[SEQUENCE], torch.ones(12)
    ratios = torch.tensor([1.142631, 1.0, 1.051271, 1.068939])[SEQUENCE]
    for token_level in (False, True):
        logps = flat(LOGPS).requires_grad_()
        loss = sequence_policy_loss(logps, flat(OLD), repeated, ones, SEQUENCE, LENGTHS, 1.0, 1.0, token_level).loss
        (loss / LENGTHS[SEQUENCE]).sum().backward()  # the mean over each sequence's tokens, summed
        assert logps.grad is not None
        torch.testing.assert_close(logps.grad, -repeated * ratios / LENGTHS[SEQUENCE], rtol=1e-5, atol=1e-6)


def test_cispo_and_rloo_push_every_token() -> None:
    for config in (CispoConfig(ratio_cap=1.0), RlooConfig()):
        algorithm = config.build_objective()
        made = examples_a(config, algorithm)
        logps = flat(LOGPS).requires_grad_()
        batch = make_micro_batch(made, range(4), "padded")
        algorithm.loss(logps, torch.zeros(12), batch, normalizers_of(made))[0].backward()
        assert logps.grad is not None
        assert (logps.grad != 0).all()


def test_reinforce_plus_plus_returns_and_whitening() -> None:
    ones = [np.ones(len(row), np.float32) for row in OLD]
    returns = [
        returns_with_kl(reward, array(old), array(reference), mask, 0.01)
        for reward, old, reference, mask in zip([1, 0, 0.5, 0], OLD, REFERENCE, ones, strict=True)
    ]
    assert returns[0] == pytest.approx([1.003, 1.002, 0.999], abs=1e-6)
    assert returns[2] == pytest.approx([0.504, 0.501, 0.498, 0.499], abs=1e-6)
    everything = np.concatenate(returns)
    assert everything.mean() == pytest.approx(0.417250, abs=1e-6)
    assert everything.var() == pytest.approx(0.160072, abs=1e-6)
    assert whitened(returns, ones)[0] == pytest.approx([1.464044, 1.461545, 1.454046], abs=1e-5)
    config = ReinforcePlusPlusConfig(kl_coef=0.01)
    assert examples_a(config, config.build_objective())[0].advantages == pytest.approx(
        [1.464044, 1.461545, 1.454046], abs=1e-5
    )


def one_token_group(rewards: list[float]) -> Group:
    completion = Completion(np.ones(1, np.int32), array([-1.0]), (), "stop", "")
    prompt = Prompt("p", 0, "", np.ones(1, np.int32))
    return Group(prompt, (completion,) * len(rewards), total_rewards=array(rewards))


def test_reinforce_plus_plus_baseline_takes_group_means_out_first() -> None:
    config = ReinforcePlusPlusConfig(baseline=True)
    groups = [one_token_group([1, 0, 0, 1]), one_token_group([0, 0, 0, 1])]
    completed = config.build_objective().complete(config.build_examples().from_groups(groups))
    found = [example.advantages.item() for example in completed]  # type: ignore[union-attr]
    assert found[:4] == pytest.approx([1.069045, -1.069045, -1.069045, 1.069045], abs=1e-5)
    assert found[4:] == pytest.approx([-0.534522, -0.534522, -0.534522, 1.603567], abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"kind": "token_truncate"}, -0.276430),
        ({"kind": "icepop"}, -0.363035),
        ({"kind": "token_mask"}, 0.007571),
        ({"kind": "sequence_truncate"}, -0.985120),
        ({"kind": "sequence_mask"}, -0.727867),
        ({"kind": "decoupled", "cap": 1e9}, -0.464760),
        ({"kind": "decoupled", "over": "mask"}, -0.319277),
    ],
    ids=str,
)
def test_corrections_of_the_grpo_loss(settings: dict[str, object], expected: float) -> None:
    config = GrpoConfig.model_validate({**TOKENS, "correction": settings})
    assert loss_a(config)[0] == pytest.approx(expected, abs=1e-6)


def test_icepop_keeps_ten_of_twelve_tokens() -> None:
    metrics = loss_a(GrpoConfig(**TOKENS, correction=CorrectionConfig(kind="icepop")))[1]
    assert metrics["mismatch/masked_share"] == 2


def weights(kind: str, **settings: object) -> list[float]:
    config = CorrectionConfig.model_validate({"kind": kind, **settings})
    found = correction_weights(config, flat(OLD), flat(ROLLOUT), torch.ones(12), SEQUENCE, LENGTHS)
    return found.weights[[0, 3, 5, 9]].tolist()


def test_sequence_products_and_geometric_means() -> None:
    products = [2.718282, 1.051271, 6.049647, 0.472367]
    assert weights("sequence_truncate", cap=100) == pytest.approx(products, abs=1e-5)
    assert weights("sequence_truncate") == pytest.approx([2.718282, 1.051271, 3, 0.472367], abs=1e-5)
    assert weights("sequence_mask") == pytest.approx([2.718282, 1.051271, 0, 0.472367], abs=1e-5)
    # geometric means 1.395612, 1.025315, 1.568312, 0.778801
    assert weights("geometric_filter", low=0.7, cap=1.395) == [0, 1, 0, 1]
    assert weights("geometric_filter", low=0.7, cap=1.396) == [1, 1, 0, 1]
    assert weights("geometric_filter", low=0.7789, cap=1.5684) == [1, 1, 1, 0]
    sums = mismatch_metrics(flat(OLD), flat(ROLLOUT), torch.ones(12), SEQUENCE, LENGTHS)
    mean = np.mean([1.395612, 1.025315, 1.568312, 0.778801])
    assert sums["mismatch/geometric_mean_ratio"].value.item() / 4 == pytest.approx(mean, abs=1e-6)


def test_overlong_penalty_grows_in_a_line() -> None:
    dapo = OverlongConfig(max_tokens=20_480, buffer_tokens=4_096)
    found = [overlong_penalty(length, dapo) for length in (16_384, 17_408, 18_432, 20_480, 30_000)]
    assert found == [0, -0.25, -0.5, -1, -1]
    half = OverlongConfig(max_tokens=100, buffer_tokens=20, factor=0.5)
    assert [overlong_penalty(length, half) for length in (85, 100)] == pytest.approx([-0.125, -0.5])


def test_dynamic_sampling_keeps_groups_with_spread() -> None:
    rows: list[list[float]] = [[1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 1, 0], [0.5, 0.5, 0.5, 0.5], [0, 0, 0, 1]]
    algorithm = DapoConfig().build_examples()
    assert [number for number, row in enumerate(rows) if algorithm.accepts(one_token_group(row))] == [2, 4]


@pytest.mark.parametrize(
    ("versions", "expected"), [((3, 5, 6), 0.666667), ((4, 5, 8), 0.25), ((5, 5, 5), 0), ((5, 5, 6), 0)]
)
def test_loglinear_share(versions: tuple[int, int, int], expected: float) -> None:
    rollout, proximal, current = versions
    share = loglinear_share(np.array([rollout], np.int32), proximal, current)
    assert share.item() == pytest.approx(expected, abs=1e-6)


def test_the_meter_agrees_with_numpy() -> None:
    old, rollout = flat(OLD).double().numpy(), flat(ROLLOUT).double().numpy()
    ratio = np.exp(old - rollout)
    sums = mismatch_metrics(flat(OLD), flat(ROLLOUT), torch.ones(12), SEQUENCE, LENGTHS)
    totals = {name: Metric(metric.value.item(), metric.kind) for name, metric in sums.items()}
    finished = finish_mismatch(divided(totals, num_tokens=12, num_units=1), tokens_per_sequence=3)
    assert values_of(finished) == pytest.approx(
        {
            "mismatch/mean_abs_logp_difference": np.abs(old - rollout).mean(),
            "mismatch/max_abs_logp_difference": np.abs(old - rollout).max(),
            "mismatch/mean_ratio": ratio.mean(),
            "mismatch/max_ratio": ratio.max(),
            "mismatch/min_ratio": ratio.min(),
            "mismatch/geometric_mean_ratio": np.mean([1.395612, 1.025315, 1.568312, 0.778801]),
            "mismatch/effective_sample_size_share": ratio.sum() ** 2 / (12 * (ratio**2).sum()),
            "mismatch/logp_correlation": np.corrcoef(old, rollout)[0, 1],
        },
        rel=1e-6,
    )
