"""Tokens out of the loss: whatever their log-probs are, no algorithm and no correction hears of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from raylign.learners.algorithms.policy_gradient.cispo import CispoConfig
from raylign.learners.algorithms.policy_gradient.grpo import Grpo, GrpoConfig
from raylign.learners.algorithms.policy_gradient.gspo import GspoConfig
from raylign.learners.algorithms.policy_gradient.rloo import RlooConfig
from raylign.learners.algorithms.registry import AnyAlgorithmConfig, build_algorithm
from raylign.learners.examples.micro_batch import make_micro_batch, normalizers_of
from tests.learners.algorithms.fixture_a import LOGPS, examples_a

MASKED = 1
"""The second of the first answer's three tokens."""


def loss_with(config: AnyAlgorithmConfig, learner: float, rollout: float) -> tuple[float, torch.Tensor]:
    """Loss of fixture A and its gradient, with these log-probs at the masked token."""
    algorithm = build_algorithm(config)
    first, *others = examples_a(algorithm)
    assert first.rollout_logps is not None and first.old_logps is not None
    mask, rollout_logps = first.loss_mask.copy(), first.rollout_logps.copy()
    mask[MASKED], rollout_logps[MASKED] = 0, rollout
    made = [replace(first, loss_mask=mask, rollout_logps=rollout_logps), *others]
    logps = torch.tensor([value for row in LOGPS for value in row])
    logps[MASKED] = learner
    logps.requires_grad_()
    batch = make_micro_batch(made, range(4), "padded")
    loss, _ = algorithm.loss(logps, torch.zeros(12), batch, normalizers_of(made))
    loss.backward()
    assert logps.grad is not None
    return loss.item(), logps.grad


@pytest.mark.parametrize(
    "kind", ["none", "token_truncate", "sequence_truncate", "token_mask", "sequence_mask", "icepop", "decoupled"]
)
@pytest.mark.parametrize(
    ("config_class", "settings"),
    [
        (GrpoConfig, {}),
        (GspoConfig, {"clip_low": 1.0, "clip_high": 100.0}),  # clipped it would have no gradient at all
        (CispoConfig, {}),
        (RlooConfig, {}),
    ],
)
def test_a_masked_token_changes_neither_the_loss_nor_its_gradient(
    config_class: Any, settings: dict[str, float], kind: str
) -> None:
    config = config_class(**settings, correction={"kind": kind})
    loss, gradient = loss_with(config, learner=-1.0, rollout=-1.0)
    assert gradient[MASKED] == 0 and (gradient[[0, 2]] != 0).any()
    for learner, rollout in ((-0.01, -1.0), (-9.0, -1.0), (-1.0, -0.01), (-1.0, -9.0)):
        other_loss, other_gradient = loss_with(config, learner, rollout)
        assert other_loss == loss and torch.equal(other_gradient, gradient)


def test_dual_clip_of_the_config_caps_bad_answers_and_leaves_good_ones_alone() -> None:
    """Ratios of 5 everywhere: a loss of −A·5 where the answer is bad, of −A·1.2 where it is good."""
    losses = {}
    for dual_clip in (None, 3.0):
        config = GrpoConfig(clip_high=0.2, dual_clip=dual_clip)
        algorithm, made = Grpo(config), examples_a(build_algorithm(config))
        batch = make_micro_batch(made, range(4), "padded")
        assert batch.old_logps is not None
        losses[dual_clip] = [
            algorithm.objective(batch.old_logps + np.log(5), batch.old_logps, batch).loss[start].item()
            for start in (0, 3, 5)
        ]
    advantages = [1.305580, -0.783348, 0.261116]
    assert losses[None] == pytest.approx([-1.2 * advantages[0], -5 * advantages[1], -1.2 * advantages[2]], abs=1e-5)
    assert losses[3.0] == pytest.approx([-1.2 * advantages[0], -3 * advantages[1], -1.2 * advantages[2]], abs=1e-5)
