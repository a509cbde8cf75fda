"""Tokens out of the loss: whatever their log-probs are, no algorithm and no correction hears of them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from raylign.learners.algorithms.policy_gradient.cispo import CispoConfig
from raylign.learners.algorithms.policy_gradient.grpo import GrpoConfig
from raylign.learners.algorithms.policy_gradient.gspo import GspoConfig
from raylign.learners.algorithms.policy_gradient.rloo import RlooConfig
from raylign.learners.algorithms.registry import AnyAlgorithmConfig
from raylign.learners.examples.micro_batch import make_micro_batch, normalizers_of
from tests.learners.algorithms.fixture_a import LOGPS, examples_a

MASKED = 1
"""The second of the first answer's three tokens."""


def loss_with(config: AnyAlgorithmConfig, learner: float, rollout: float) -> tuple[float, torch.Tensor]:
    """Loss of fixture A and its gradient, with these log-probs at the masked token."""
    objective = config.build_objective()
    first, *others = examples_a(config, objective)
    assert first.rollout_logps is not None and first.old_logps is not None
    mask, rollout_logps = first.loss_mask.copy(), first.rollout_logps.copy()
    mask[MASKED], rollout_logps[MASKED] = 0, rollout
    made = [replace(first, loss_mask=mask, rollout_logps=rollout_logps), *others]
    logps = torch.tensor([value for row in LOGPS for value in row])
    logps[MASKED] = learner
    logps.requires_grad_()
    batch = make_micro_batch(made, range(4), "padded")
    loss, _ = objective.loss(logps, torch.zeros(12), batch, normalizers_of(made))
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


@pytest.mark.parametrize(("dual_clip", "expected"), [(None, 1.135855), (3.0, 0.483065)])
def test_dual_clip_of_the_config_caps_bad_answers_and_leaves_good_ones_alone(
    dual_clip: float | None, expected: float
) -> None:
    """Ratios of 5 everywhere, 3, 2, 4 and 3 tokens: (−3·1.2·1.305580 + 2·c·0.783348 − 4·1.2·0.261116 + 3·c·0.783348)/12
    with c = 5, or 3 where it is capped."""
    config = GrpoConfig(clip_high=0.2, dual_clip=dual_clip)
    objective = config.build_objective()
    made = examples_a(config, objective)
    batch = make_micro_batch(made, range(4), "padded")
    assert batch.old_logps is not None
    loss, _ = objective.loss(batch.old_logps + math.log(5), torch.zeros(12), batch, normalizers_of(made))
    assert loss.item() == pytest.approx(expected, abs=1e-5)
