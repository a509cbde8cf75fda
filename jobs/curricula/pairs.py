"""The curriculum of preference pairs: each row is a prompt with a better and a worse answer.

Given rows and the algorithm's routing; gives pairs of the data, and pairs that the policy's answers to some of the rows
make. Ordinals of groups count only the rows that the policy answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from raylign.jobs.config.references import compare_with_references
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.curricula.base import Curriculum, Services
from raylign.jobs.run.pair_evaluation import metrics_of_source, pair_metrics, source_names
from raylign.learners.algorithms.base import ExampleMaker
from raylign.learners.examples.example import Example
from raylign.rollout.data.mixture import PairMixture
from raylign.rollout.data.prompts import PromptSource
from raylign.rollout.sample import Group, Prompt
from raylign.rollout.staleness import StalenessBound

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PairCurriculum(Curriculum):
    """Equally many rows in every step, epoch after epoch, and pairs held out."""

    rows: PromptSource | PairMixture

    def __init__(
        self,
        config: TrainConfig,
        rows: PromptSource | PairMixture,
        examples: ExampleMaker,
        held_out: Mapping[str, PromptSource],
    ) -> None:
        """`held_out`: by name; the first is `evaluation.pairs`."""
        super().__init__(config, rows, examples)
        self._held_out = held_out

    @classmethod
    def open(cls, config: TrainConfig, tokenizer: PreTrainedTokenizerBase, make: ExampleMaker) -> Self:
        """A prompt that engines answer needs room for the answer."""
        context, seed = config.rollout.engine.max_model_len, config.seed
        room = context - config.sampling.max_tokens if config.algorithm.needs_rollouts else context
        compares = config.algorithm.needs_rewards and compare_with_references(config.rewards)
        sources = [
            PromptSource.open_pairs(data, tokenizer, seed + number, room, context, compares)
            for number, data in enumerate([config.data, *config.more_data])
        ]
        rows = PairMixture(sources, [each.share for each in config.more_data]) if config.more_data else sources[0]
        evaluation = config.evaluation
        held_out = [] if evaluation.pairs is None else [evaluation.pairs, *evaluation.more_pairs]
        opened = [PromptSource.open_pairs(data, tokenizer, seed, context, context) for data in held_out]
        names = source_names([data.source for data in held_out])
        return cls(config, rows, make, dict(zip(names, opened, strict=True)))

    def examples(self, step: int, groups: Sequence[Group]) -> list[Example]:
        routing, start = self.make.routing, step * self._rows_per_step
        generated = self.make.from_groups(groups) if routing else []
        ordinals = routing.kept_rows(step) if routing else range(start, start + self._rows_per_step)
        pairs = self.make.from_pairs([self.rows.pair(ordinal) for ordinal in ordinals])
        return generated + [replace(example, unit=example.unit + len(groups)) for example in pairs]

    def prompt(self, ordinal: int) -> Prompt:
        if self.make.routing is None:
            return super().prompt(ordinal)
        return replace(self.rows.prompt(self.make.routing.row_of(ordinal)), ordinal=ordinal)

    def bound(self, runs_ahead: int) -> StalenessBound:
        routing = self.make.routing
        return StalenessBound(runs_ahead, self._rows_per_step, routing.generated_before if routing else None)

    @property
    def evaluates(self) -> bool:
        return bool(self._held_out)

    async def evaluate(self, services: Services) -> dict[str, float]:
        """Loss, accuracy and margin on the pairs held out; of several sources each apart."""
        found: dict[str, float] = {}
        for name, source in self._held_out.items():
            count = min(self.config.evaluation.num_prompts, len(source))
            pairs = [source.pair(ordinal) for ordinal in range(count)]
            metrics = await services.learner.evaluate(self.make.from_pairs(pairs, is_training=False))
            line = pair_metrics(metrics, count)
            found = found or line
            if len(self._held_out) > 1:
                found |= metrics_of_source(line, name)
        return found
