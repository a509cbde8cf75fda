"""BDR and BDR_Online against numbers worked out by hand in double precision."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from raylign.learners.algorithms.bilevel.bdr import BdrConfig
from raylign.learners.algorithms.bilevel.bdr_online import BdrOnlineConfig, importance_ratios
from raylign.learners.algorithms.bilevel.level_rows import (
    trusted_examples,
    weighed_examples,
    with_old_logps,
)
from raylign.learners.algorithms.bilevel.selector import (
    Selector,
    SelectorConfig,
    row_weights,
    selector_gradient,
)
from raylign.learners.algorithms.bilevel.two_levels import TwoLevelConfig, TwoLevelObjective, upper_share
from raylign.learners.algorithms.facts import RunRows
from raylign.learners.examples.example import Example
from raylign.learners.examples.micro_batch import make_micro_batch, normalizers_of
from raylign.learners.examples.row_shares import (
    bottom_rows,
    gate,
    num_passing,
    top_rows,
)
from raylign.learners.examples.rows import WeighedRow
from raylign.rollout.sample import Completion, PreferencePair, Prompt, VersionSpan

LOGITS = [0.5, -0.2, 0.0, 1.0, -1.0, 0.3]
BATCH = [0, 3, 4, 1]
LOSSES = [1.2, 0.8, 2.5, 1.5]
UPPER_LOSS = 0.9
WEIGHTS = [1.251643, 0.621548, 0.759160, 2.063611, 0.279279, 1.024759]
ROWS = RunRows(num_rows=6, fingerprint="a", rows_per_step=4, num_steps=10)
IDS = np.array([1, 2], np.int32)


def fixture_a(config: TwoLevelConfig) -> TwoLevelObjective:  # type: ignore[type-arg]
    algorithm = config.build_objective(rows=ROWS)
    assert isinstance(algorithm, TwoLevelObjective)
    with torch.no_grad():
        algorithm.selector.logits.copy_(torch.tensor(LOGITS))
    return algorithm


def examples_a() -> list[Example]:
    """One trusted row and the batch of fixture A, each of one token."""
    one = IDS[:1]
    return trusted_examples([(IDS, one)]) + weighed_examples([WeighedRow(row, IDS, one) for row in BATCH])


def loss_of(algorithm: TwoLevelObjective, examples: list[Example], logps: torch.Tensor) -> torch.Tensor:  # type: ignore[type-arg]
    batch = make_micro_batch(examples, range(len(examples)), "packed")
    loss, _ = algorithm.loss(logps, torch.zeros_like(logps), batch, normalizers_of(examples))
    return loss


def test_softmax_weights_add_up_to_the_number_of_rows() -> None:  # 1
    weights = row_weights(torch.tensor(LOGITS, dtype=torch.float64), "softmax")
    np.testing.assert_allclose(weights, WEIGHTS, atol=1e-6)
    assert weights.sum() == pytest.approx(6)


@pytest.mark.parametrize(("activation", "expected"), [("softmax", 1.0), ("sigmoid", 0.99995)])
def test_a_fresh_selector_weighs_all_rows_the_same(activation: str, expected: float) -> None:  # 1
    for num_rows in (1, 7, 56_000):
        selector = Selector(SelectorConfig(activation=activation), num_rows, 1)  # type: ignore[arg-type]
        np.testing.assert_allclose(selector.weights(), expected, atol=1e-6)


def test_weights_multiply_the_losses_of_bdr() -> None:  # 2
    algorithm = fixture_a(BdrConfig())
    completed = algorithm.complete(examples_a())
    logps = -torch.tensor([UPPER_LOSS, *LOSSES])
    assert float(loss_of(algorithm, completed, logps)) == pytest.approx(1.047923, abs=1e-6)
    metrics = algorithm.after_step(completed, [UPPER_LOSS, *LOSSES])
    assert metrics["selection/weighted_lower_loss"] == pytest.approx(1.195845, abs=1e-6)


def test_the_gradient_of_the_selector_is_dense_and_adds_up_to_nothing() -> None:  # 3
    gradient = selector_gradient(torch.tensor(LOGITS, dtype=torch.float64), "softmax", BATCH, LOSSES)
    expected = [0.126031, 0.109201, -0.151306, 0.001429, 0.118887, -0.204242]
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    assert float(gradient.sum()) == pytest.approx(0, abs=1e-12)
    share = torch.tensor(LOGITS, dtype=torch.float64).softmax(0)
    outside = sum(share[row] * loss for row, loss in zip(BATCH, LOSSES, strict=True))
    by_formula = 6 / 4 * share * (torch.tensor([1.2, 1.5, 0, 0.8, 2.5, 0], dtype=torch.float64) - outside)
    np.testing.assert_allclose(gradient, by_formula, atol=1e-12)


def test_one_adam_step_of_the_selector() -> None:  # 4
    algorithm = fixture_a(BdrConfig(selector=SelectorConfig(learning_rate=0.1)))
    completed = algorithm.complete(examples_a())
    algorithm.after_step(completed, [UPPER_LOSS, *LOSSES])
    np.testing.assert_allclose(algorithm.selector.state()["logits"], [0.4, -0.3, 0.1, 0.9, -1.1, 0.4], atol=1e-5)
    expected = [1.174339, 0.583160, 0.869972, 1.936159, 0.262031, 1.174339]
    np.testing.assert_allclose(algorithm.selector.weights(), expected, atol=1e-4)


@pytest.mark.parametrize("config", [BdrConfig(gate=True, filter_rate=0.25), BdrOnlineConfig(filter_rate=0.25)])
def test_the_gate_divides_by_the_batch_and_not_by_the_rows_that_pass(config: TwoLevelConfig) -> None:  # 5
    gated = fixture_a(config)
    assert gate([WEIGHTS[row] for row in BATCH], 0.25) == [1, 1, 0, 1]
    completed = with_old_logps(gated.complete(examples_a()))
    logps = -torch.tensor([UPPER_LOSS, *LOSSES])
    assert float(loss_of(gated, completed, logps)) == pytest.approx(0.8875, abs=1e-6)
    gated_mean = sum(e.facts["coefficient"] / 0.5 * loss for e, loss in zip(completed[1:], LOSSES, strict=True))
    assert gated_mean == pytest.approx(0.875)


@pytest.mark.parametrize(
    ("size", "filter_rate", "expected"),
    [
        *[(1, 0.1, 1), (4, 0.1, 3), (8, 0.1, 7), (10, 0.1, 9), (32, 0.1, 28)],
        *[(10, 0.7, 3), (10, 0.9, 1), (5, 0.4, 3), (8, 1.0, 1)],
    ],
)
def test_how_many_rows_pass(size: int, filter_rate: float, expected: int) -> None:  # 6
    assert num_passing(size, filter_rate) == expected


def test_of_equal_weights_the_first_pass() -> None:
    assert gate([1.0, 2.0, 1.0, 1.0], 0.5) == [1, 1, 0, 0]
    assert top_rows(np.array([0.0, 1.0, 0.0, 0.0], np.float32), 0.5) == [0, 1]


ANSWERS = [
    ([-0.5, -1.2, -0.1], [-0.7, -1.0, -0.1], [1.221403, 0.818731, 1.0], 0.564393),
    ([-2.0, -0.3], [-4.6, -0.2], [10.0, 0.904837], 10.135726),
    ([-1.0], [-np.inf], [10.0], 10.0),
]


def completion(old_logps: list[float], version: int = 3) -> Completion:
    size = len(old_logps)
    return Completion(
        np.ones(size, np.int32), np.array(old_logps, np.float32), (VersionSpan(version, 0, size),), "stop", "x"
    )


@pytest.mark.parametrize(("logps", "old_logps", "ratios", "expected"), ANSWERS)
def test_an_answer_is_weighed_by_clamped_ratios(
    logps: list[float], old_logps: list[float], ratios: list[float], expected: float
) -> None:  # 7
    algorithm = fixture_a(BdrOnlineConfig(filter_rate=0, upper_share=0))
    leaf = torch.tensor(logps, dtype=torch.float64, requires_grad=True)
    old = torch.tensor(old_logps, dtype=torch.float64)
    np.testing.assert_allclose(importance_ratios(leaf, old), ratios, atol=1e-6)
    examples = weighed_examples([WeighedRow(0, IDS, IDS, (completion(old_logps),))])
    loss = loss_of(algorithm, algorithm.complete(examples), leaf)
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-5)
    loss.backward()
    assert leaf.grad is not None
    np.testing.assert_allclose(leaf.grad, [-ratio / len(ratios) for ratio in ratios], atol=1e-6)


def test_a_row_is_the_mean_of_its_answers() -> None:  # 7
    algorithm = fixture_a(BdrOnlineConfig(filter_rate=0, upper_share=0))
    answers = tuple(completion(old) for _, old, _, _ in ANSWERS[:2])
    examples = algorithm.complete(weighed_examples([WeighedRow(0, IDS, IDS, answers)]))
    batch = make_micro_batch(examples, [0, 1], "packed")
    logps = torch.tensor(ANSWERS[0][0] + ANSWERS[1][0])
    loss, _ = algorithm.loss(logps, torch.zeros(5), batch, normalizers_of(examples))
    assert float(loss) == pytest.approx(5.350059, abs=1e-5)
    assert [e.token_versions.tolist() for e in examples if e.token_versions is not None] == [[3, 3, 3], [3, 3]]


def test_the_selector_sees_one_loss_for_a_row_of_several_answers() -> None:
    algorithm = fixture_a(BdrOnlineConfig(filter_rate=0))
    answers = tuple(completion(old) for _, old, _, _ in ANSWERS[:2])
    rows = [WeighedRow(0, IDS, IDS, answers), WeighedRow(4, IDS, IDS[:1])]
    examples = algorithm.complete(with_old_logps(trusted_examples([(IDS, IDS)]) + weighed_examples(rows)))
    metrics = algorithm.after_step(examples, [0.5, 1.0, 2.0, 4.0])
    assert metrics["selection/lower_loss"] == pytest.approx((1.5 + 4.0) / 2)
    assert metrics["selection/sampled_share"] == 0.5


def test_a_row_without_a_usable_answer_is_left_out() -> None:
    algorithm = fixture_a(BdrOnlineConfig(filter_rate=0, upper_share=0))
    examples = weighed_examples([WeighedRow(0, IDS, IDS, ()), WeighedRow(4, IDS, IDS[:1])])
    [only] = algorithm.complete(examples)
    assert only.facts["coefficient"] == 1.0


def test_dynamic_masking_takes_the_smallest_weights() -> None:  # 10
    weights = np.array(WEIGHTS, np.float32)
    assert bottom_rows(weights, 0.34) == [1, 4]
    assert bottom_rows(weights, 0.5) == [1, 2, 4]


TOY_TARGETS = torch.tensor([1, 1, -1, -1, 3], dtype=torch.float64)


def toy(num_steps: int, learns: bool = True) -> tuple[float, list[float]]:
    """U = ½(θ−1)², ℓ_i = ½(θ−a_i)², λ ½, plain gradient steps of both."""
    theta, logits = 0.0, torch.full((5,), 0.1, dtype=torch.float64)
    for _ in range(num_steps):
        losses = 0.5 * (theta - TOY_TARGETS) ** 2
        weights = row_weights(logits, "softmax")
        gradient = 0.5 * (theta - 1) + 0.5 * float((weights * (theta - TOY_TARGETS)).mean())
        if learns:
            logits = logits - 0.5 * selector_gradient(logits, "softmax", range(5), losses.tolist())
        theta -= 0.1 * gradient
    return theta, row_weights(logits, "softmax").tolist()


@pytest.mark.parametrize(
    ("num_steps", "theta", "weights"),
    [
        (1, 0.080000, [1.070590] * 4 + [0.717638]),
        (100, 0.989072, [2.462683, 2.462683, 0.029965, 0.029965, 0.014704]),
        (2000, 0.999740, [2.498492, 2.498492, 0.001077, 0.001077, 0.000862]),
    ],
)
def test_the_toy_problem_finds_the_useful_rows(num_steps: int, theta: float, weights: list[float]) -> None:  # 11
    found_theta, found_weights = toy(num_steps)
    assert found_theta == pytest.approx(theta, abs=1e-6)
    np.testing.assert_allclose(found_weights, weights, atol=1e-6)


def test_frozen_uniform_weights_stay_at_the_mixture() -> None:  # 11
    assert toy(2000, learns=False)[0] == pytest.approx(0.8, abs=1e-9)


def test_the_upper_share_falls_and_stops_at_zero() -> None:  # 12
    shares = [upper_share(BdrConfig(), epoch) for epoch in range(7)]
    np.testing.assert_allclose(shares, [0.5, 0.4, 0.3, 0.2, 0.1, 0, 0], atol=1e-12)
    assert min(shares) == 0


def test_the_upper_share_falls_with_each_pass_over_the_rows() -> None:
    algorithm = fixture_a(BdrConfig())
    found = []
    for _ in range(4):  # 6 rows, 4 a step: steps 0 and 1 begin in the first pass, 2 in the second, 3 in the third
        found.append(algorithm.upper_share_now)
        algorithm.after_step(algorithm.complete(examples_a()), [1.0] * 5)
    np.testing.assert_allclose(found, [0.5, 0.5, 0.4, 0.3], atol=1e-12)


@pytest.mark.parametrize("filter_rate", [0.0, 0.1, 0.3])
def test_a_filter_without_a_gate_is_refused_whatever_it_is(filter_rate: float) -> None:
    with pytest.raises(ValueError, match=rf"filter_rate is {filter_rate:g}: bdr does not filter; set gate: true"):
        BdrConfig(filter_rate=filter_rate)
    assert BdrConfig(gate=True, filter_rate=filter_rate).gated_share == filter_rate


def test_a_gate_without_a_rate_has_the_published_one_and_no_gate_none() -> None:
    assert (BdrConfig(gate=True).gated_share, BdrConfig().gated_share) == (0.1, None)
    assert BdrConfig(**BdrConfig().model_dump()) == BdrConfig()  # a printed config is accepted again


def test_a_selector_goes_on_where_it_was_saved() -> None:
    config = SelectorConfig(learning_rate=0.1, schedule="cosine", warmup_steps=1)
    whole = Selector(config, 6, 6)
    for _ in range(3):
        whole.step(BATCH, LOSSES)
    resumed = Selector(config, 6, 6)
    resumed.load_state(whole.state())
    for selector in (whole, resumed):
        selector.step([5, 2], [0.3, 0.9])
        selector.step(BATCH, LOSSES)
    for key, value in whole.state().items():
        np.testing.assert_array_equal(resumed.state()[key], value)


def test_a_selector_of_another_data_set_is_refused() -> None:
    saved = fixture_a(BdrConfig()).state()
    other = BdrConfig().build_objective(rows=replace(ROWS, fingerprint="b"))
    with pytest.raises(ValueError, match=r"weighs 6 rows with fingerprint a, and `data` has 6 with b"):
        other.load_state(saved)


def test_selector_steps_for_parts_of_a_batch_where_asked() -> None:
    """The public code steps the selector once for every micro-batch."""
    config = SelectorConfig(learning_rate=0.1, step_every="micro", micro_rows=2)
    algorithm = fixture_a(BdrConfig(selector=config))
    algorithm.after_step(algorithm.complete(examples_a()), [UPPER_LOSS, *LOSSES])
    by_hand = fixture_a(BdrConfig(selector=config)).selector
    by_hand.step(BATCH[:2], LOSSES[:2])
    by_hand.step(BATCH[2:], LOSSES[2:])
    np.testing.assert_array_equal(algorithm.selector.weights(), by_hand.weights())


@pytest.mark.parametrize(("upper", "expected"), [("dpo", 0.5981388693815918), ("ipo", (1.0 * 2 - 5.0) ** 2)])
def test_pairs_above_and_weighed_rows_below(upper: str, expected: float) -> None:
    """h = (−1 + 2) − (−3 + 2) = 2; log σ(0.1·2) = −0.598139."""
    algorithm = fixture_a(BdrConfig(upper=upper))  # type: ignore[arg-type]
    assert algorithm.needs_reference
    one = IDS[:1]
    prompt = Prompt("a", 0, "a", IDS)
    examples = trusted_examples([PreferencePair(prompt, one, one, "x", "y")])
    examples += weighed_examples([WeighedRow(row, IDS, one) for row in BATCH])
    reference = [replace(e, reference_logps=np.full(1, -2.0, np.float32)) for e in algorithm.complete(examples)]
    batch = make_micro_batch(reference, range(6), "packed")
    logps = torch.tensor([-1.0, -3.0, *[-loss for loss in LOSSES]])
    loss, metrics = algorithm.loss(logps, torch.zeros(6), batch, normalizers_of(reference))
    assert float(loss) == pytest.approx(0.5 * expected + 0.5 * 1.195845, abs=1e-5)
    np.testing.assert_allclose(metrics["sequence/loss"].value[2:], LOSSES, atol=1e-6)
