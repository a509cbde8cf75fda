"""The curriculum of bilevel data selection: trusted rows and rows to weigh, in lock-step.

Given both data sets; gives the examples of each step, asks for new answers to rows when they are due, and keeps them in
checkpoints and in `selection.parquet`. Each data set goes through epochs of its own, so every row is seen equally often
(the public loop ends an epoch with the shorter set, and so leaves rows of the longer one unseen).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from raylign.actors.learner.liveness import while_it_lives
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.curricula.base import Curriculum, Services
from raylign.jobs.curricula.refresh import Refresh
from raylign.jobs.curricula.selection import write_selection
from raylign.learners.algorithms.base import ExampleMaker
from raylign.learners.examples.example import Example
from raylign.learners.examples.rows import Demonstration, WeighedRow
from raylign.rollout.data.config import DataConfig
from raylign.rollout.data.prompts import PromptSource
from raylign.rollout.sample import FloatArray, Group, PreferencePair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWER_ORDINAL = 1 << 41
"""Questions of a refresh are numbered from here: their sampling seeds are of their own in every refresh."""
REFRESH = "refresh"
"""Folder in a checkpoint."""


class TwoLevelCurriculum(Curriculum):
    """Equally many rows of both levels in every step."""

    rows: PromptSource

    def __init__(
        self,
        config: TrainConfig,
        weighed: PromptSource,
        trusted: PromptSource,
        held_out: PromptSource | None,
        make: ExampleMaker,
    ) -> None:
        super().__init__(config, weighed, make)
        self.trusted, self._held_out = trusted, held_out
        self._takes_pairs = config.algorithm.trusted_kind == "pairs"
        self._refresh: Refresh | None = None
        if plan := config.algorithm.refresh:
            waits = config.asynchrony.max_staleness == 0
            self._refresh = Refresh(plan, len(weighed), config.seed, waits_for_answers=waits)

    @classmethod
    def open(cls, config: TrainConfig, tokenizer: PreTrainedTokenizerBase, make: ExampleMaker) -> Self:
        """Both data sets, and the trusted rows that are held out."""
        weighed, trusted = open_levels(config, tokenizer)
        held_out = None
        if config.evaluation.trusted is not None:
            held_out = open_trusted(config, config.evaluation.trusted, tokenizer, config.seed)
        return cls(config, weighed, trusted, held_out, make)

    def examples(self, step: int, groups: Sequence[Group]) -> list[Example]:
        ordinals = range(step * self._rows_per_step, (step + 1) * self._rows_per_step)
        trusted = trusted_rows(self.trusted, self._takes_pairs, ordinals)
        return self.make.from_levels(trusted, [self._weighed_row(ordinal) for ordinal in ordinals])

    def _weighed_row(self, ordinal: int) -> WeighedRow:
        row = self.rows.row(ordinal)
        prompt, _, response_ids = self.rows.demonstration(ordinal)
        answers = self._refresh.answers(row) if self._refresh else None
        return WeighedRow(row, prompt.token_ids, response_ids, answers)

    async def before_step(self, step: int, services: Services) -> dict[str, float]:
        """Metrics of a refresh whose answers are used from now on."""
        if self._refresh is None:
            return {}
        engines = RefreshEngines(self.config, self.rows, services)
        first = await while_it_lives(services.learner, self._refresh.begin(engines))
        return first | await while_it_lives(services.learner, self._refresh.at_step(step + 1, engines))

    @property
    def evaluates(self) -> bool:
        return self._held_out is not None

    async def evaluate(self, services: Services) -> dict[str, float]:
        """U on trusted rows that are not trained on."""
        if self._held_out is None:
            return {}
        count = min(self.config.evaluation.num_prompts, len(self._held_out))
        rows = trusted_rows(self._held_out, self._takes_pairs, range(count))
        losses = await services.learner.evaluate(self.make.from_trusted(rows))
        return {"evaluation/loss": losses["learner/loss"], "evaluation/num_rows": float(count)}

    async def release_engines(self) -> None:
        """Engines answer one caller at a time."""
        if self._refresh is not None:
            await self._refresh.settle()

    async def stop(self) -> None:
        if self._refresh is not None:
            await self._refresh.stop()

    def save(self, checkpoint: Path) -> None:
        """Answers in use."""
        if self._refresh is not None:
            self._refresh.save(checkpoint / REFRESH)

    def load(self, checkpoint: Path) -> None:
        if self._refresh is not None:
            self._refresh.load(checkpoint / REFRESH)

    async def write_results(self, run_folder: Path, step: int, services: Services) -> None:
        """`selection.parquet` and, where asked, `selected.jsonl`."""
        state = await services.learner.algorithm_state()
        groups = dict(self._refresh.groups) if self._refresh else {}
        plan = self.config.algorithm.selection
        assert plan is not None, "rows are weighed"
        # in a thread: answers under way must not wait for thousands of rows to be written
        await asyncio.to_thread(write_selection, run_folder, self.rows, plan, state, groups, step)


@dataclass(frozen=True)
class RefreshEngines:
    """Implements `refresh.Engines` with the parts of a run."""

    config: TrainConfig
    rows: PromptSource
    services: Services

    async def send_weights(self, version: int) -> Callable[[], Awaitable[None]]:
        publisher = self.services.publisher
        if version <= publisher.version:  # engines began with them, or an evaluation has just sent them
            return nothing
        exported = await publisher.export(version)

        async def deliver() -> None:
            await publisher.deliver(exported)

        return deliver

    async def answer(self, rows: Sequence[int], refresh: int) -> list[Group]:
        first = ANSWER_ORDINAL + refresh * len(self.rows)
        prompts = [self.rows.prompt_of_row(row, first + place) for place, row in enumerate(rows)]
        ordered = self.config.rollout.deterministic
        return await self.services.rollouts.collect_all(prompts, self.config.sampling, ordered=ordered)

    async def row_weights(self) -> FloatArray:
        state = await self.services.learner.algorithm_state()
        weights: FloatArray = state["weights"]
        return weights


async def nothing() -> None:
    """No weights to bring."""


def open_levels(config: TrainConfig, tokenizer: PreTrainedTokenizerBase) -> tuple[PromptSource, PromptSource]:
    """Rows to weigh and trusted rows, tokenised by the same rules."""
    assert config.trusted_data is not None, "checked with the config"
    context = config.rollout.engine.max_model_len
    room = context - config.sampling.max_tokens if config.algorithm.refresh else context
    weighed = PromptSource.open(config.data, tokenizer, config.seed, room, max_sequence_tokens=context)
    trusted = open_trusted(config, config.trusted_data, tokenizer, config.seed + 1)
    return weighed, trusted


def open_trusted(config: TrainConfig, data: DataConfig, tokenizer: PreTrainedTokenizerBase, seed: int) -> PromptSource:
    """Demonstrations, or preference pairs where the upper level learns from those."""
    context = config.rollout.engine.max_model_len
    if config.algorithm.trusted_kind == "pairs":
        return PromptSource.open_pairs(data, tokenizer, seed, context, context)
    return PromptSource.open(data, tokenizer, seed, context, max_sequence_tokens=context)


def trusted_rows(
    source: PromptSource, takes_pairs: bool, ordinals: Sequence[int]
) -> Sequence[Demonstration | PreferencePair]:
    """Demonstrations or pairs."""
    if takes_pairs:
        return [source.pair(ordinal) for ordinal in ordinals]
    found = [source.demonstration(ordinal) for ordinal in ordinals]
    return [(prompt.token_ids, response_ids) for prompt, _, response_ids in found]
