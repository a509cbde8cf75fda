"""What a model answers to held-out prompts, through the engines.

Given a run's config and tokenizer; gives `evaluation/…` metrics when asked. Other rows that are held out are
the curriculum's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from raylign.actors.learner.liveness import Mortal, while_it_lives
from raylign.actors.rollout_pool import RolloutPool
from raylign.jobs.config.references import compare_with_references
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.run.metrics import evaluation_metrics
from raylign.rollout.data.prompts import PromptSource
from raylign.rollout.sample import Group
from raylign.rollout.sampling import SamplingConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EVALUATION_ORDINAL = 1 << 40
"""Evaluation prompts are numbered from here, so that their sampling seeds never meet those of training."""


class HeldOut:
    """The rows of `evaluation.data`."""

    def __init__(self, config: TrainConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        self._config = config
        settings, context = config.evaluation, config.rollout.engine.max_model_len
        self.prompts: PromptSource | None = None
        if settings.data is not None and not config.replay:  # a replay runs no engine that could answer
            room = context - config.sampling.max_tokens
            compares = compare_with_references(settings.rewards or config.rewards)
            self.prompts = PromptSource.open(settings.data, tokenizer, config.seed, room, needs_references=compares)

    async def answer_prompts(self, pool: RolloutPool, learner: Mortal) -> tuple[dict[str, float], list[Group]]:
        """Accuracy and mean reward of answers to the prompts, and the answers; they are of no use without `learner`."""
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
        answers = pool.collect_all(prompts, sampling, ordered=config.rollout.deterministic)
        groups = await while_it_lives(learner, answers)
        return evaluation_metrics(groups, settings.correct_from, sorted({1, settings.num_completions})), groups
