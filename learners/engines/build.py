"""The one place that chooses the learner's backend; nothing outside this folder names one.

Given a model and the learner's config; gives it ready to train, or frozen and ready to run. DeepSpeed is the only
backend today: a second one adds its key to `LearnerConfig` and its case to these two functions.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from raylign.learners.engines.config import LearnerConfig

if TYPE_CHECKING:
    from raylign.learners.engines.base import LearnerEngine, LearnerModel
    from raylign.learners.engines.frozen import FrozenModel


def build_engine(
    model: LearnerModel, config: LearnerConfig, total_optimizer_steps: int, debug_folder: Path
) -> LearnerEngine:
    """`debug_folder`: where a micro-batch is saved whose loss is not finite."""
    from raylign.learners.engines.deepspeed_engine import DeepSpeedEngine

    return DeepSpeedEngine(model, config, total_optimizer_steps, debug_folder)


def shard_frozen(model: LearnerModel, config: LearnerConfig) -> FrozenModel:
    """A model that is only run, laid out as the backend lays out what it trains."""
    from raylign.learners.engines.deepspeed_engine import shard_frozen as shard

    return shard(model, config)
