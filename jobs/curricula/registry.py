"""Which curriculum an algorithm learns from.

Given a run's config and the tokenizer of its model; gives the curriculum, opened: rows that do not fit are an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raylign.jobs.config.train import TrainConfig
from raylign.jobs.curricula.base import Curriculum
from raylign.jobs.curricula.demonstrations import DemonstrationCurriculum
from raylign.jobs.curricula.pairs import PairCurriculum
from raylign.jobs.curricula.prompts import PromptCurriculum
from raylign.jobs.curricula.two_levels import TwoLevelCurriculum
from raylign.learners.algorithms.base import ExampleMaker
from raylign.learners.algorithms.facts import CurriculumKind
from raylign.rewards.scoring import weights_by_name

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CURRICULA: dict[CurriculumKind, Callable[[TrainConfig, Any, ExampleMaker], Curriculum]] = {
    "prompts": PromptCurriculum.open,
    "demonstrations": DemonstrationCurriculum.open,
    "pairs": PairCurriculum.open,
    "two_levels": TwoLevelCurriculum.open,
}


def open_curriculum(config: TrainConfig, tokenizer: PreTrainedTokenizerBase) -> Curriculum:
    """The curriculum of the run's algorithm."""
    make = config.algorithm.build_examples(
        config.seed, config.rollout.prompts_per_step, weights_by_name(config.rewards)
    )
    return CURRICULA[config.algorithm.curriculum](config, tokenizer, make)


def num_steps_of(config: TrainConfig, num_rows: int) -> int:
    """Steps of the run; where it is given in epochs, rounded up to whole steps."""
    if config.num_epochs is None:
        return config.num_steps
    rows = config.num_epochs * config.algorithm.epoch_stretch * num_rows
    return max(1, math.ceil(rows / config.rollout.prompts_per_step))
