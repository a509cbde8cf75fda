"""The curriculum of algorithms that learn from rewards: rows are prompts, and the policy answers all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from raylign.jobs.config.references import compare_with_references
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.curricula.base import Curriculum
from raylign.learners.algorithms.base import ExampleMaker
from raylign.learners.examples.example import Example
from raylign.rollout.data.prompts import PromptSource
from raylign.rollout.sample import Group

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PromptCurriculum(Curriculum):
    """Groups of the step, and nothing else."""

    @classmethod
    def open(cls, config: TrainConfig, tokenizer: PreTrainedTokenizerBase, make: ExampleMaker) -> Self:
        """A prompt needs room for its answer."""
        room = config.rollout.engine.max_model_len - config.sampling.max_tokens
        compares = compare_with_references(config.rewards)
        rows = PromptSource.open(config.data, tokenizer, config.seed, room, needs_references=compares)
        return cls(config, rows, make)

    def examples(self, step: int, groups: Sequence[Group]) -> list[Example]:
        return self.make.from_groups(groups)
