"""The learning rate as a pure function of the optimizer step.

Given a config with a schedule (the learner's, the selector's), a step and the number of steps; gives the learning rate
of that step.
"""

from __future__ import annotations

import math
from typing import Literal, Protocol


class Scheduled(Protocol):
    """What a config with a schedule has."""

    learning_rate: float
    schedule: Literal["constant", "linear", "cosine"]
    final_learning_rate_share: float
    warmup_steps: int


def learning_rate(config: Scheduled, step: int, total_steps: int) -> float:
    """Learning rate of optimizer step `step` (from 0) out of `total_steps`: linear warm-up, then the schedule."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    num_decay_steps = max(1, total_steps - 1 - config.warmup_steps)
    progress = min(1.0, (step - config.warmup_steps) / num_decay_steps)
    share = 1 - progress if config.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    floor = config.final_learning_rate_share
    return config.learning_rate * (floor + (1 - floor) * share)
