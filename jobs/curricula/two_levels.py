"""Trusted rows and rows to weigh, in lock-step: what BDR and BDR_Online train on, step by step.

Given a config and the run's parts; gives the examples of each step, asks for new answers when they are due, and keeps
them in checkpoints and in `selection.parquet`. Each data set goes through epochs of its own, so every row is seen
equally often (the public loop ends an epoch with the shorter set, and so leaves rows of the longer one unseen).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylign.jobs.config.train import TrainConfig
from raylign.jobs.curricula.refresh import Refresh
from raylign.jobs.curricula.selection import write_selection
from raylign.jobs.run.parts import RunParts
from raylign.learners.algorithms.bilevel.bdr_online import BdrOnlineConfig
from raylign.learners.algorithms.bilevel.level_rows import (
    WeighedRow,
    WeighedRows,
    trusted_examples,
    weighed_examples,
    with_old_logps,
)
from raylign.learners.algorithms.bilevel.two_levels import TwoLevelConfig
from raylign.learners.examples.example import Example
from raylign.rollout.data.config import DataConfig
from raylign.rollout.data.mapping import row_name
from raylign.rollout.data.prompts import PromptSource
from raylign.rollout.sample import FloatArray, Group

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWER_ORDINAL = 1 << 41
"""Questions of a refresh are numbered from here: their sampling seeds are of their own in every refresh."""
REFRESH = "refresh"
"""Folder in a checkpoint."""


class TwoLevelRows:
    """Implements `bdr_refresh.Engines` with the run's parts."""

    def __init__(
        self, config: TrainConfig, algorithm: TwoLevelConfig, tokenizer: PreTrainedTokenizerBase, parts: RunParts
    ) -> None:
        self._config, self._algorithm, self._parts = config, algorithm, parts
        self.weighed, self.trusted = open_levels(config, algorithm, tokenizer)
        held_out, context = config.evaluation.trusted, config.rollout.engine.max_model_len
        self._held_out: PromptSource | None = None
        if held_out is not None:
            self._held_out = open_trusted(held_out, algorithm, tokenizer, config.seed, context)
        self._refresh: Refresh | None = None
        if isinstance(algorithm, BdrOnlineConfig):
            waits = config.asynchrony.max_staleness == 0
            self._refresh = Refresh(algorithm, len(self.weighed), config.seed, self, waits_for_answers=waits)

    def about_rows(self, num_steps: int) -> WeighedRows:
        """What every learner rank is told."""
        return WeighedRows(
            len(self.weighed), self.weighed.fingerprint, self._config.rollout.prompts_per_step, num_steps
        )

    async def before_step(self, step: int) -> dict[str, float]:
        """`step` counts finished ones. Metrics of a refresh whose answers are used from now on."""
        if self._refresh is None:
            return {}
        first = await self._refresh.begin()
        return first | await self._refresh.at_step(step + 1)

    def of_step(self, step: int, first_unit: int = 0) -> list[Example]:
        """Equally many rows of both levels."""
        count = self._config.rollout.prompts_per_step
        ordinals = range(step * count, (step + 1) * count)
        examples = trusted_examples(trusted_rows(self.trusted, self._algorithm, ordinals))
        examples += weighed_examples([self._weighed_row(ordinal) for ordinal in ordinals])
        return examples if self._refresh is None else with_old_logps(examples)

    @property
    def evaluates(self) -> bool:
        """Whether trusted rows are held out."""
        return self._held_out is not None

    async def evaluate(self) -> dict[str, float]:
        """U on trusted rows that are not trained on; nothing where there are none."""
        if self._held_out is None:
            return {}
        count = min(self._config.evaluation.num_prompts, len(self._held_out))
        examples = trusted_examples(trusted_rows(self._held_out, self._algorithm, range(count)))
        losses = await self._parts.learner.evaluate(examples if self._refresh is None else with_old_logps(examples))
        return {"evaluation/loss": losses["learner/loss"], "evaluation/num_rows": float(count)}

    def _weighed_row(self, ordinal: int) -> WeighedRow:
        row = self.weighed.row(ordinal)
        prompt, _, response_ids = self.weighed.demonstration(ordinal)
        answers = self._refresh.answers(row) if self._refresh else None
        return WeighedRow(row, prompt.token_ids, response_ids, answers)

    # ---- what a refresh needs -----------------------------------------------------------------------------

    async def send_weights(self, version: int) -> Callable[[], Awaitable[None]]:
        publisher = self._parts.publisher
        if version <= publisher.version:  # engines began with them, or an evaluation has just sent them
            return nothing
        exported = await publisher.export(version)
        if not exported.buckets:  # nccl and ipc set nothing aside: the learner must not go on before they have arrived
            await publisher.deliver(exported)
            return nothing

        async def deliver() -> None:
            await publisher.deliver(exported)

        return deliver

    async def answer(self, rows: Sequence[int], refresh: int) -> list[Group]:
        first = ANSWER_ORDINAL + refresh * len(self.weighed)
        prompts = [self.weighed.prompt_of_row(row, first + place) for place, row in enumerate(rows)]
        ordered = self._config.rollout.deterministic
        return await self._parts.rollouts.collect_all(prompts, self._config.sampling, ordered=ordered)

    async def row_weights(self) -> FloatArray:
        state = await self._parts.learner.algorithm_state()
        weights: FloatArray = state["weights"]
        return weights

    async def engines_free(self) -> None:
        """Engines answer one caller at a time."""
        if self._refresh is not None:
            await self._refresh.settle()

    async def stop(self) -> None:
        if self._refresh is not None:
            await self._refresh.stop()

    # ---- what it leaves behind ----------------------------------------------------------------------------

    def save(self, checkpoint: Path) -> None:
        """Answers in use, in a checkpoint folder."""
        if self._refresh is not None:
            self._refresh.save(checkpoint / REFRESH)

    def load(self, checkpoint: Path) -> None:
        if self._refresh is not None:
            self._refresh.load(checkpoint / REFRESH)

    async def write_selection(self, run_folder: Path, step: int) -> None:
        """`selection.parquet` and, where asked, `selected.jsonl`, of the state after `step`."""
        state = await self._parts.learner.algorithm_state()
        groups = self._refresh.groups if self._refresh else {}
        # in a thread: answers under way must not wait for thousands of rows to be written
        await asyncio.to_thread(write_selection, run_folder, self.weighed, self._algorithm, state, dict(groups), step)


async def nothing() -> None:
    """No weights to bring."""


def open_levels(
    config: TrainConfig, algorithm: TwoLevelConfig, tokenizer: PreTrainedTokenizerBase
) -> tuple[PromptSource, PromptSource]:
    """Rows to weigh and trusted rows, tokenised by the same rules."""
    assert config.trusted_data is not None, "checked with the config"
    context = config.rollout.engine.max_model_len
    room = context - config.sampling.max_tokens if algorithm.answers_rows else context
    weighed = PromptSource.open(config.data, tokenizer, config.seed, room, max_sequence_tokens=context)
    refuse_empty_responses(weighed, config.data)
    trusted = open_trusted(config.trusted_data, algorithm, tokenizer, config.seed + 1, context)
    return weighed, trusted


def open_trusted(
    data: DataConfig, algorithm: TwoLevelConfig, tokenizer: PreTrainedTokenizerBase, seed: int, context: int
) -> PromptSource:
    """Demonstrations, or preference pairs where the upper level learns from those."""
    if algorithm.upper != "sft":
        return PromptSource.open_pairs(data, tokenizer, seed, context, context)
    trusted = PromptSource.open(data, tokenizer, seed, context, max_sequence_tokens=context)
    refuse_empty_responses(trusted, data)
    return trusted


def trusted_rows(source: PromptSource, algorithm: TwoLevelConfig, ordinals: Sequence[int]) -> list[Any]:
    """Demonstrations or pairs."""
    if algorithm.upper != "sft":
        return [source.pair(ordinal) for ordinal in ordinals]
    found = [source.demonstration(ordinal) for ordinal in ordinals]
    return [(prompt.token_ids, response_ids) for prompt, _, response_ids in found]


def refuse_empty_responses(source: PromptSource, data: DataConfig) -> None:
    """A row without a response teaches to say nothing."""
    empty = [row for row in range(len(source)) if not source.texts_of_row(row)[1].strip()]
    if empty:
        raise ValueError(
            f"{data.source}, {row_name(source.mapped_row(empty[0]).index)}: the response is empty; so are {len(empty)} "
            f"of {len(source)} rows. Take them out of the file, or name the right column in `response`"
        )
