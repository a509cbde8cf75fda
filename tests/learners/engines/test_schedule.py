"""Learning-rate schedules against hand-worked numbers."""

from __future__ import annotations

import pytest

from raylign.learners.engines.config import LearnerConfig
from raylign.learners.engines.schedule import learning_rate


def rates(total_steps: int = 5, **settings: object) -> list[float]:
    config = LearnerConfig.model_validate({"learning_rate": 1.0, **settings})
    return [learning_rate(config, step, total_steps) for step in range(total_steps)]


def test_constant_with_warm_up() -> None:
    assert rates(warmup_steps=2) == [0.5, 1, 1, 1, 1]


def test_linear_ends_at_the_final_share() -> None:
    assert rates(schedule="linear", final_learning_rate_share=0.2) == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])


def test_cosine_is_half_way_in_the_middle() -> None:
    assert rates(schedule="cosine", final_learning_rate_share=0.0)[::2] == pytest.approx([1, 0.5, 0])


def test_steps_past_the_end_keep_the_last_rate() -> None:
    config = LearnerConfig(learning_rate=1.0, schedule="linear", final_learning_rate_share=0.1)
    assert learning_rate(config, 99, 5) == pytest.approx(0.1)
