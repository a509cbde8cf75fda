"""Which model a learner trains.

Given the kind that the objective asks for; gives the model in float32, ready for a learner backend.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from raylign.learners.engines.config import LearnerConfig
from raylign.learners.examples.micro_batch import Layout
from raylign.learners.model.policy_model import load_policy
from raylign.learners.model.scorer import load_scorer

if TYPE_CHECKING:
    from raylign.learners.engines.base import LearnerModel


def load_model(
    kind: Literal["policy", "scorer"],
    model_path: str,
    config: LearnerConfig,
    temperature: float,
    layout: Layout,
    seed: int,
    entropy_has_gradient: bool,
) -> LearnerModel:
    """`temperature`: of training rollouts; a scorer has none."""
    if kind == "scorer":
        return load_scorer(model_path, config, layout, seed)
    policy = load_policy(model_path, config, temperature, layout, seed)
    policy.token_logps.entropy_has_gradient = entropy_has_gradient
    return policy
