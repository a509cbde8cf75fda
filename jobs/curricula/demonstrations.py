"""The curriculum of demonstrations: each row is a prompt and the response to imitate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from raylign.jobs.config.train import TrainConfig
from raylign.jobs.curricula.base import Curriculum
from raylign.learners.algorithms.base import ExampleMaker
from raylign.learners.examples.example import Example
from raylign.rollout.data.prompts import PromptSource
from raylign.rollout.sample import Group

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class DemonstrationCurriculum(Curriculum):
    """Equally many rows in every step, epoch after epoch."""

    rows: PromptSource

    @classmethod
    def open(cls, config: TrainConfig, tokenizer: PreTrainedTokenizerBase, make: ExampleMaker) -> Self:
        """Prompt and response fit the context together."""
        context = config.rollout.engine.max_model_len
        rows = PromptSource.open(config.data, tokenizer, config.seed, context, max_sequence_tokens=context)
        return cls(config, rows, make)

    def examples(self, step: int, groups: Sequence[Group]) -> list[Example]:
        start = step * self._rows_per_step
        demonstrations = [self.rows.demonstration(ordinal) for ordinal in range(start, start + self._rows_per_step)]
        return self.make.from_demonstrations([(prompt.token_ids, response) for prompt, _, response in demonstrations])
