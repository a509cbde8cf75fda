"""DPO, IPO, BoNBoN and SAIL against published and hand-worked numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

from raylign.learners.algorithms.preference.bonbon import Bonbon, BonbonConfig
from raylign.learners.algorithms.preference.dpo import Dpo, DpoConfig
from raylign.learners.algorithms.preference.ipo import Ipo, IpoConfig
from raylign.learners.algorithms.preference.pairs import PairExamples, Pairs
from raylign.learners.algorithms.preference.sail import Sail, SailConfig
from raylign.learners.algorithms.preference.sail_routing import DATA, DDP, DPP, DPR
from raylign.learners.examples.example import Normalizers
from raylign.learners.examples.micro_batch import make_micro_batch
from raylign.learners.losses.preference import (
    logistic_loss,
    published_response_term,
    response_term,
    robust_probability,
)
from raylign.rollout.sample import PreferencePair, Prompt
from tests.learners.algorithms.pair_cases import fixture_a, gradients, pairs_of

SWAPPED, KEPT = [1.0] * 4, [0.0] * 4
"""Uniform numbers that always and never swap."""


def sail_losses(route: int, uniform: list[float] = KEPT, **config: object) -> tuple[Pairs, torch.Tensor]:
    """Losses of fixture A with every row on one route."""
    shared = {"share": 0.3, "coefficient": 0.2}
    given = {"ddp": shared, "dpp": shared, "dpr": {"share": 0.3, "coefficient": 0.3}, "relabel": "at_use", **config}
    pairs = fixture_a(route=[route] * 4, uniform=uniform, rollout_logp=[0.0] * 4)
    losses, _ = Sail(SailConfig.model_validate(given)).pair_loss(pairs)
    return pairs, losses


def test_dpo_has_the_published_losses() -> None:
    pairs = fixture_a()
    losses, _ = Dpo(DpoConfig()).pair_loss(pairs)
    assert pairs.h.tolist() == pytest.approx([2, -1.5, 0.7, -5])
    assert losses.tolist() == pytest.approx([0.598139, 0.770957, 0.658760, 0.974077], abs=1e-6)
    assert losses.mean().item() == pytest.approx(0.750483, abs=1e-6)


def test_dpo_has_the_published_gradients() -> None:
    pairs = fixture_a()
    losses, _ = Dpo(DpoConfig()).pair_loss(pairs)
    chosen, rejected = gradients(pairs, losses)
    assert chosen == pytest.approx([-0.011254, -0.013436, -0.012063, -0.015561], abs=1e-6)
    assert rejected == pytest.approx([-value for value in chosen])


def test_soft_labels_and_label_smoothing_mix_both_orders() -> None:
    pairs = fixture_a(probability=[0.7] * 4)
    z = 0.1 * pairs.h
    q = 0.9 * 0.7 + 0.1 * 0.3
    losses, _ = Dpo(DpoConfig(label_smoothing=0.1)).pair_loss(pairs)
    assert torch.allclose(losses, -q * logsigmoid(z) - (1 - q) * logsigmoid(-z))


def measured(h: list[float], **config: float) -> tuple[float, float]:
    """Accuracy and mean margin, as they stand in metrics: through DPO's examples, a micro-batch and its loss."""
    pairs = [
        PreferencePair(
            Prompt(str(n), n, "", np.zeros(1, np.int32)), np.zeros(1, np.int32), np.zeros(1, np.int32), "", "", 1.0
        )
        for n in range(len(h))
    ]
    objective = DpoConfig(**config).build_objective()
    reference = [np.array([ratio], np.float32) for each in h for ratio in (-each, 0.0)]  # log π is 0
    examples = [
        replace(example, reference_logps=logps)
        for example, logps in zip(PairExamples().from_pairs(pairs), reference, strict=True)
    ]
    batch = make_micro_batch(examples, range(len(examples)), "packed")
    logps = torch.zeros(len(examples))
    normalizers = Normalizers(num_tokens=len(examples), num_sequences=len(examples))
    _, sums = objective.loss(logps, logps, batch, normalizers)
    accuracy, margin = (sums[f"preference/{name}"].value.item() for name in ("accuracy", "margin"))
    return accuracy / len(h), margin / len(h)


def test_accuracy_and_margin_are_those_of_the_implicit_rewards() -> None:
    """r(x, y) = β·[log π(y|x) − log π₀(y|x)] (DPO, arXiv 2305.18290 section 4)."""
    accuracy, margin = measured([2, -1.5, 0.7, -5], beta=0.1)  # margins 0.2, -0.15, 0.07, -0.5
    assert accuracy == 0.5
    assert margin == pytest.approx(-0.095)


def test_a_margin_of_zero_is_no_success() -> None:
    assert measured([0.0], beta=1.0) == (0.0, 0.0)


def test_ipo_pulls_the_margin_to_half_over_beta() -> None:
    losses, _ = Ipo(IpoConfig(beta=0.1)).pair_loss(fixture_a())
    assert losses.tolist() == pytest.approx([9.0, 42.25, 18.49, 100.0])


def test_labels_swap_with_the_published_probabilities() -> None:
    z = 0.1 * fixture_a().h
    assert (1 - z.sigmoid()).tolist() == pytest.approx([0.450166, 0.537430, 0.482507, 0.622459], abs=1e-6)
    for row, probability in enumerate((1 - z.sigmoid()).tolist()):
        for uniform, swaps in ((1 - probability - 1e-9, False), (1 - probability + 1e-9, True)):
            given = [0.0] * 4
            given[row] = uniform
            _, losses = sail_losses(DDP, given, label_term=False)
            sign = -1 if swaps else 1
            assert losses[row].item() == pytest.approx(-logsigmoid(sign * z[row]).item())


def test_self_labels_have_the_published_losses_and_gradients() -> None:
    pairs, losses = sail_losses(DDP)
    assert losses.tolist() == pytest.approx([0.562362, 0.711520, 0.615363, 0.879194], abs=1e-6)
    assert losses.mean().item() == pytest.approx(0.692110, abs=1e-6)
    chosen, _ = gradients(pairs, losses)
    assert chosen == pytest.approx([-0.009908, -0.011364, -0.010473, -0.012530], abs=1e-6)
    _, stronger = sail_losses(DDP, ddp={"share": 0.3, "coefficient": 0.3})
    assert stronger.mean().item() == pytest.approx(0.662923, abs=1e-6)


def test_swapped_self_labels_have_the_published_losses() -> None:
    _, losses = sail_losses(DDP, SWAPPED)
    assert losses.tolist() == pytest.approx([0.734436, 0.582398, 0.675651, 0.451602], abs=1e-6)


def test_the_response_term_has_the_published_gradients() -> None:
    pairs, losses = sail_losses(DPR)
    chosen, rejected = gradients(pairs, losses)
    assert chosen == pytest.approx([0.033606, 0.044386, 0.037344, 0.057494], abs=1e-6)
    assert rejected == pytest.approx([0.056115, 0.071258, 0.061470, 0.088617], abs=1e-6)
    pairs, losses = sail_losses(DPP)
    chosen, rejected = gradients(pairs, losses)
    assert chosen == pytest.approx([0.019999, 0.027184, 0.022465, 0.036174], abs=1e-6)
    assert rejected == pytest.approx([0.039815, 0.049912, 0.043411, 0.061234], abs=1e-6)


def test_the_published_codes_response_term_only_comes_by_its_switch() -> None:
    pairs, losses = sail_losses(DPR, response_term="published")
    chosen, _ = gradients(pairs, losses)
    assert chosen == pytest.approx([-0.026208, -0.025000, -0.036766, -0.025302], abs=1e-6)


def test_soft_and_robust_labels_have_the_published_numbers() -> None:
    q, half = torch.tensor([0.8], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)
    assert logistic_loss(half, q).item() == pytest.approx(0.574077, abs=1e-6)
    for z, radius, probability, loss in (
        (half, 0.1, 0.604789, 0.671682),
        (half, 1.0, 0.143260, 0.902447),
        (-half, 0.1, 0.953788, 0.950971),
    ):
        found = robust_probability(q, z, radius)
        assert found.item() == pytest.approx(probability, abs=1e-6)
        assert logistic_loss(z, found).item() == pytest.approx(loss, abs=1e-6)


def test_epochs_stretch_as_published() -> None:
    assert 5 * SailConfig.model_validate({"ddp": {"share": 0.4}}).epoch_stretch == pytest.approx(8.333333)
    assert 5 * SailConfig.model_validate({"dpp": {"share": 0.3}}).epoch_stretch == pytest.approx(7.142857)


def test_bonbon_with_likelihood_alone_finds_the_best_of_n_law() -> None:
    """16 answers, uniform base policy, n = 4: a tabular softmax policy comes to ((r+1)/16)^4 − (r/16)^4."""
    random = np.random.default_rng(0)
    draws = random.integers(0, 16, (40_000, 4))
    best, worst = torch.from_numpy(draws.max(1)), torch.from_numpy(draws.min(1))
    kept = best != worst
    theta = torch.zeros(16, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=0.1)
    algorithm = Bonbon(BonbonConfig(n=4, alpha=1.0))
    uniform = torch.full((), -np.log(16.0), dtype=torch.float64)
    for _ in range(400):
        logps = theta.log_softmax(0)
        chosen, rejected = logps[best], logps[worst]
        ones = torch.ones(len(best), dtype=torch.float64)
        pairs = Pairs(
            h=chosen - rejected, chosen_logps=chosen, rejected_logps=rejected, chosen_log_ratios=chosen - uniform,
            rejected_log_ratios=rejected - uniform, chosen_lengths=ones, facts={}, rejected_facts={},
            num_pairs=len(best),
        )  # fmt: skip
        optimizer.zero_grad()
        algorithm.pair_loss(pairs)[0].mean().backward()
        optimizer.step()
    ranks = np.arange(16)
    law = ((ranks + 1) / 16) ** 4 - (ranks / 16) ** 4
    distance = 0.5 * np.abs(theta.detach().softmax(0).numpy() - law).sum()
    print(f"total variation {distance:.4f}; {int((~kept).sum())} groups of four equal answers")
    assert distance < 0.02


def test_a_baseline_is_subtracted_in_the_response_term_only() -> None:
    pairs, losses = sail_losses(DPR)
    plain = gradients(pairs, losses)[0]
    algorithm_pairs, with_baseline = sail_losses(DPR, baseline="mean")
    moved = gradients(algorithm_pairs, with_baseline)[0]
    assert np.subtract(moved, plain).tolist() == pytest.approx([0.3 * np.log(0.5) / 4] * 4)


def response_gradients(term: Any, **settings: float) -> tuple[float, float]:
    """By the log-probs −2 and −4 of the two answers at z = 0, where F = −ln 2, with c = ½."""
    chosen, rejected = torch.tensor([-2.0], requires_grad=True), torch.tensor([-4.0], requires_grad=True)
    term(torch.zeros(1), chosen, rejected, torch.tensor([0.5]), **settings).sum().backward()
    assert chosen.grad is not None and rejected.grad is not None
    return chosen.grad.item(), rejected.grad.item()


def test_the_response_term_has_no_baseline_unless_one_is_given() -> None:
    half_of_ln_2 = 0.5 * 0.693147
    assert response_gradients(response_term) == pytest.approx((half_of_ln_2, half_of_ln_2), abs=1e-6)
    assert response_gradients(response_term, baseline=-1.0) == pytest.approx((-0.153426, -0.153426), abs=1e-6)


def test_the_published_response_term_divides_by_each_answers_own_log_prob() -> None:
    # −c·pairs·F/log π = −½·3·(−0.693147)/(−2) and /(−4)
    found = response_gradients(published_response_term, num_pairs=3)
    assert found == pytest.approx((-0.519860, -0.259930), abs=1e-6)


def test_certain_labels_are_moved_as_far_as_the_radius_allows() -> None:
    """KL(Bern(1 − x)‖Bern(1 − 1e-12)) ≈ x·(ln x + 27.631021) − x = 0.1 at x = 0.0047007, from either end."""
    certain = torch.tensor([1.0, 0.0], dtype=torch.float64)
    found = robust_probability(certain, torch.tensor([0.5, -0.5], dtype=torch.float64), 0.1)
    x = 0.0047007
    assert x * (np.log(x) + 27.631021) - x + x**2 / 2 == pytest.approx(0.1, abs=1e-6)
    assert found.tolist() == pytest.approx([1 - x, x], abs=1e-6)


def test_robust_labels_keep_their_type_and_lean_up_where_the_policy_has_no_preference() -> None:
    found = robust_probability(torch.tensor([0.8]), torch.zeros(1), 0.1)
    assert found.dtype == torch.float32 and found.item() == pytest.approx(0.953788, abs=1e-6)


def test_rows_of_the_data_have_exactly_the_loss_of_dpo() -> None:
    _, losses = sail_losses(DATA)
    expected, _ = Dpo(DpoConfig()).pair_loss(fixture_a())
    assert torch.equal(losses, expected)


def softmax_policy() -> tuple[torch.Tensor, torch.Tensor]:
    theta = torch.tensor([0.2, -0.4, 0.7], dtype=torch.float64, requires_grad=True)
    return theta, theta.log_softmax(0)


@pytest.mark.parametrize("labels", ["reward model", "policy"])
def test_the_terms_add_up_to_the_exact_gradient_of_the_objective(labels: str) -> None:
    """Three answers, uniform reference, β = 0.5: every pair and label by its probability, as the routes would draw."""
    beta, scores = 0.5, [0.0, 2.0, 1.0]
    theta, logps = softmax_policy()
    objective = torch.zeros((), dtype=torch.float64)
    surrogate = {part: torch.zeros((), dtype=torch.float64) for part in ("dpo", "label", "response")}
    for first in range(3):
        for second in range(3):
            z = beta * (logps[first] - logps[second])
            if labels == "reward model":
                drawn = [(1.0, z if scores[first] >= scores[second] else -z)]
            else:
                drawn = [(z.sigmoid(), z), ((-z).sigmoid(), -z)]
            for probability, signed in drawn:
                weight = logps[first].exp() * logps[second].exp() * probability
                f = logsigmoid(signed)
                objective = objective + weight * f
                held = weight.detach() if isinstance(weight, torch.Tensor) else weight
                surrogate["dpo"] = surrogate["dpo"] + held * f
                surrogate["label"] = surrogate["label"] + held * 0.5 * f.square()
                surrogate["response"] = surrogate["response"] + held * f.detach() * (logps[first] + logps[second])
    parts = {part: torch.autograd.grad(value, theta, retain_graph=True)[0] for part, value in surrogate.items()}
    exact = torch.autograd.grad(objective, theta)[0]
    if labels == "reward model":
        assert objective.item() == pytest.approx(-0.727937, abs=1e-6)
        assert exact.tolist() == pytest.approx([-0.059181, 0.026307, 0.032875], abs=1e-6)
        assert parts["dpo"].tolist() == pytest.approx([-0.101437, 0.086955, 0.014481], abs=1e-6)
        assert parts["response"].tolist() == pytest.approx([0.042255, -0.060649, 0.018394], abs=1e-6)
        assert torch.allclose(exact, parts["dpo"] + parts["response"])
    else:
        assert objective.item() == pytest.approx(-0.683005, abs=1e-6)
        assert parts["dpo"].abs().max().item() < 1e-12
        assert parts["label"].tolist() == pytest.approx([-0.005986, -0.015229, 0.021216], abs=1e-6)
        assert parts["response"].tolist() == pytest.approx([-0.002649, 0.004161, -0.001511], abs=1e-6)
        assert torch.allclose(exact, parts["dpo"] + parts["label"] + parts["response"])


BEST, WORST, BEST_REFERENCE, WORST_REFERENCE = [-42.0, -30], [-50.0, -44], [-45.5, -31], [-47.0, -25]


def test_bonbon_has_the_published_losses_and_gradients() -> None:
    pairs = pairs_of(BEST, WORST, BEST_REFERENCE, WORST_REFERENCE)
    losses, metrics = Bonbon(BonbonConfig(n=8)).pair_loss(pairs)
    assert pairs.h.tolist() == pytest.approx([6.5, 20])
    assert metrics["bonbon/contrastive_loss"].tolist() == pytest.approx([135.7225, 3.4225])
    assert metrics["bonbon/sft_loss"].tolist() == pytest.approx([42, 30])
    assert losses.tolist() == pytest.approx([135.2538875, 3.555388], abs=1e-6)
    assert losses.mean().item() == pytest.approx(69.404637, abs=1e-6)
    chosen, rejected = gradients(pairs, losses)
    assert (2 * chosen[0], 2 * rejected[0]) == pytest.approx((-23.188500, 23.183500), abs=1e-6)


def test_bonbon_of_two_and_of_four_samples() -> None:
    pairs = pairs_of([-10.0], [-12.0], [-11.0], [-11.5])
    losses, _ = Bonbon(BonbonConfig(n=2, alpha=0.5, beta=0.5)).pair_loss(pairs)
    assert losses.item() == pytest.approx(5.125)
    chosen, rejected = gradients(pairs, losses)
    assert (chosen[0], rejected[0]) == pytest.approx((0.0, -0.5))
    losses, metrics = Bonbon(BonbonConfig(n=4)).pair_loss(pairs_of([-10.0], [-12.0], [-11.0], [-11.5]))
    assert metrics["bonbon/contrastive_loss"].item() == pytest.approx(16)
    assert losses.item() == pytest.approx(15.97)


def test_the_published_codes_logistic_contrast_only_comes_by_its_switch() -> None:
    pairs = pairs_of(BEST, WORST, BEST_REFERENCE, WORST_REFERENCE)
    _, metrics = Bonbon(BonbonConfig(n=8)).pair_loss(pairs)
    switched, _ = Bonbon(BonbonConfig(n=8, contrastive="logistic")).pair_loss(pairs)
    assert switched.tolist() == pytest.approx([0.814580, 0.602864], abs=1e-6)
    assert metrics["bonbon/contrastive_loss"].tolist() != pytest.approx([0.607, 0.455], abs=0.1)
    two, _ = Bonbon(BonbonConfig(n=2, alpha=0.5, beta=0.5, contrastive="logistic")).pair_loss(
        pairs_of([-10.0], [-12.0], [-11.0], [-11.5])
    )
    assert two.item() == pytest.approx(5.193436, abs=1e-6)


@pytest.mark.parametrize(
    ("ddp", "dpp", "dpr", "message"),
    [
        (0.4, 0.3, 0.3, "must stay below 1"),
        (-0.1, 0.0, 0.0, "greater than or equal to 0"),
    ],
)
def test_shares_that_make_no_sense_are_refused(ddp: float, dpp: float, dpr: float, message: str) -> None:
    shares = {name: {"share": share} for name, share in (("ddp", ddp), ("dpp", dpp), ("dpr", dpr))}
    with pytest.raises(ValueError, match=message):
        SailConfig.model_validate(shares)


def test_negative_coefficients_are_refused() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        SailConfig.model_validate({"dpr": {"share": 0.3, "coefficient": -0.3}})


def test_pairs_of_another_n_are_refused() -> None:
    from dataclasses import replace

    from tests.learners.algorithms.pair_cases import random_pairs

    pairs = [replace(random_pairs(1)[0], num_drawn=4)]
    with pytest.raises(ValueError, match=r"best and worst of 4 samples, but algorithm\.n is 8"):
        BonbonConfig(n=8).build_examples().from_pairs(pairs)
