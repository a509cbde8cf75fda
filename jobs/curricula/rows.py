"""Examples from the rows' own answers: demonstrations and preference pairs.

Given the data source and the algorithm; gives the examples of a step, and how many steps so many epochs are.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from raylign.jobs.config.train import TrainConfig, row_kind
from raylign.learners.algorithms.base import Algorithm
from raylign.learners.algorithms.preference.pairs import PairAlgorithm
from raylign.learners.algorithms.preference.sail import SailConfig
from raylign.learners.algorithms.sft import demonstration_examples
from raylign.learners.examples.example import Example
from raylign.rollout.data.prompts import PromptSource

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def open_rows(config: TrainConfig, tokenizer: PreTrainedTokenizerBase) -> PromptSource:
    """The run's rows, as what the algorithm takes them for."""
    context = config.rollout.engine.max_model_len
    room = context - config.sampling.max_tokens
    if row_kind(config) == "pairs":
        # a prompt that engines answer needs room for the answer
        prompt_room = room if config.algorithm.needs_rollouts else context
        return PromptSource.open_pairs(config.data, tokenizer, config.seed, prompt_room, context)
    if row_kind(config) == "demonstrations":
        return PromptSource.open(config.data, tokenizer, config.seed, context, max_sequence_tokens=context)
    return PromptSource.open(config.data, tokenizer, config.seed, max_prompt_tokens=room)


def num_steps_of(config: TrainConfig, num_rows: int) -> int:
    """Steps of the run; where it is given in epochs, rounded up to whole steps."""
    if config.num_epochs is None:
        return config.num_steps
    stretch = config.algorithm.epoch_stretch if isinstance(config.algorithm, SailConfig) else 1.0
    return max(1, math.ceil(config.num_epochs * stretch * num_rows / config.rollout.prompts_per_step))


class RowExamples:
    """Rows of a step as examples."""

    def __init__(self, rows: PromptSource, algorithm: Algorithm, rows_per_step: int) -> None:
        self._rows, self._algorithm, self._rows_per_step = rows, algorithm, rows_per_step

    def of_step(self, step: int, first_unit: int = 0) -> list[Example]:
        """Of all rows of `step`, but for those that the policy answers. Units are numbered from `first_unit`."""
        routing, start = self._algorithm.routing, step * self._rows_per_step
        ordinals = routing.kept_rows(step) if routing else range(start, start + self._rows_per_step)
        if isinstance(self._algorithm, PairAlgorithm):
            examples = self._algorithm.pair_examples([self._rows.pair(ordinal) for ordinal in ordinals])
            return [replace(example, unit=example.unit + first_unit) for example in examples]
        demonstrations = [self._rows.demonstration(ordinal) for ordinal in ordinals]
        return demonstration_examples([(prompt.token_ids, response_ids) for prompt, _, response_ids in demonstrations])
