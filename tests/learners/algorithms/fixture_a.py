"""Fixture A of the published numbers: one group of four answers of 3, 2, 4 and 3 tokens under four policies.

Given an algorithm's config; gives its loss and metrics, through its own examples and a micro-batch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from raylign.learners.algorithms.base import Objective
from raylign.learners.algorithms.registry import AnyAlgorithmConfig
from raylign.learners.examples.example import Example
from raylign.learners.examples.micro_batch import make_micro_batch, normalizers_of
from raylign.rollout.sample import Completion, Group, Prompt, VersionSpan

REWARDS = [1, 0, 0.5, 0]
LOGPS = [[-0.2, -1, -0.5], [-0.7, -0.3], [-1.5, -0.4, -0.1, -0.9], [-0.6, -2.2, -0.3]]
OLD = [[-0.5, -1.1, -0.5], [-0.4, -0.6], [-1.5, -0.9, -0.1, -0.6], [-1, -2, -0.3]]
REFERENCE = [[-0.4, -0.8, -0.6], [-0.5, -0.5], [-1.2, -0.6, -0.2, -0.7], [-0.9, -1.9, -0.4]]
ROLLOUT = [[-0.5, -2.1, -0.5], [-0.45, -0.6], [-1.4, -0.9, -2, -0.6], [-0.2, -2, -0.35]]


def array(values: list[float]) -> np.ndarray:
    return np.array(values, np.float32)


def group_a() -> Group:
    """The group as the reward server leaves it."""
    completions = tuple(
        Completion(
            np.arange(1, len(logps) + 1, dtype=np.int32), array(logps), (VersionSpan(3, 0, len(logps)),), "stop", ""
        )
        for logps in ROLLOUT
    )
    return Group(
        Prompt("a", 0, "", np.array([1, 2], np.int32)),
        completions,
        rewards={"exact": array(REWARDS)},
        total_rewards=array(REWARDS),
    )


def examples_a(config: AnyAlgorithmConfig, objective: Objective) -> list[Example]:
    """With log-probs filled and advantages final, as the learner does it."""
    made = config.build_examples().from_groups([group_a()])
    made = [
        replace(example, old_logps=array(old), reference_logps=array(reference))
        for example, old, reference in zip(made, OLD, REFERENCE, strict=True)
    ]
    return objective.complete(made)


def loss_a(config: AnyAlgorithmConfig, max_staleness: int = 0, **changes: Any) -> tuple[float, dict[str, float]]:
    """Loss at π_θ, and metrics; `changes` replace fields of every example."""
    objective = config.build_objective(max_staleness)
    made = [replace(example, **changes) for example in examples_a(config, objective)]
    batch = make_micro_batch(made, range(4), "padded")
    logps = torch.tensor([value for row in LOGPS for value in row])
    value, metrics = objective.loss(logps, torch.zeros(12), batch, normalizers_of(made))
    return value.item(), {name: metric.value.item() for name, metric in metrics.items()}
