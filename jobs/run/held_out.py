"""What a model does on held-out rows: answers to prompts through the engines, preference pairs through the learner.

Given a run's config, algorithm and tokenizer; gives `evaluation/…` metrics when asked.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from raylign.actors.learner.group import LearnerGroup
from raylign.actors.rollout_pool import RolloutPool
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.run.metrics import evaluation_metrics
from raylign.jobs.run.pair_evaluation import pair_metrics
from raylign.learners.algorithms.base import Algorithm
from raylign.learners.algorithms.preference.pairs import PairAlgorithm
from raylign.rollout.data.prompts import PromptSource
from raylign.rollout.sample import Group
from raylign.rollout.sampling import SamplingConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EVALUATION_ORDINAL = 1 << 40
"""Evaluation prompts are numbered from here, so that their sampling seeds never meet those of training."""


class HeldOut:
    """The rows of `evaluation.data` and `evaluation.pairs`; False where there are none."""

    def __init__(self, config: TrainConfig, algorithm: Algorithm, tokenizer: PreTrainedTokenizerBase) -> None:
        self._config, self._algorithm = config, algorithm
        settings, context = config.evaluation, config.rollout.engine.max_model_len
        self.prompts: PromptSource | None = None
        self.pairs: PromptSource | None = None
        if settings.data is not None and not config.replay:  # a replay runs no engine that could answer
            room = context - config.sampling.max_tokens
            self.prompts = PromptSource.open(settings.data, tokenizer, config.seed, max_prompt_tokens=room)
        if settings.pairs is not None:
            self.pairs = PromptSource.open_pairs(settings.pairs, tokenizer, config.seed, context, context)

    def __bool__(self) -> bool:
        return self.prompts is not None or self.pairs is not None

    async def rank_pairs(self, learner: LearnerGroup) -> dict[str, float]:
        """Loss, accuracy and margin on the pairs."""
        if self.pairs is None or not isinstance(self._algorithm, PairAlgorithm):
            return {}
        count = min(self._config.evaluation.num_prompts, len(self.pairs))
        pairs = [self.pairs.pair(ordinal) for ordinal in range(count)]
        return pair_metrics(await learner.evaluate(self._algorithm.pair_examples(pairs, is_training=False)), count)

    async def answer_prompts(self, pool: RolloutPool) -> tuple[dict[str, float], list[Group]]:
        """Accuracy and mean reward of answers to the prompts, and the answers."""
        assert self.prompts is not None
        config, settings = self._config, self._config.evaluation
        count = min(settings.num_prompts, len(self.prompts))
        prompts = [
            replace(prompt, ordinal=EVALUATION_ORDINAL + prompt.ordinal) for prompt in self.prompts.take(0, count)
        ]
        sampling = SamplingConfig(
            temperature=settings.temperature,
            num_completions=settings.num_completions,
            max_tokens=config.sampling.max_tokens,
            stop=config.sampling.stop,
        )
        groups = await pool.collect_all(prompts, sampling, ordered=config.rollout.deterministic)
        return evaluation_metrics(groups, settings.correct_from, sorted({1, settings.num_completions})), groups
