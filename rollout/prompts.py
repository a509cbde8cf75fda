"""Where prompts come from, and in which order.

Given a `DataConfig` and a tokenizer, gives `Prompt`s. Order is a pure function of (seed, ordinal), so the whole
data cursor is two integers.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, Field, model_validator

from raylign.rollout.mapping import MappedRow, fingerprint_rows, map_rows, row_name
from raylign.rollout.order import IndexArray, check_range_syntax, epoch_order, select_rows
from raylign.rollout.sample import IntArray, Prompt
from raylign.rollout.sources import Row, read_rows
from raylign.rollout.templates import Template, apply_chat_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER_BATCH = 1000
"""Texts tokenized at once."""


class DataConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """One data source and how its rows become prompts."""

    source: str = "reasoning_gym:chain_sum"
    """A .jsonl/.json/.csv file (.gz too), a .parquet file, a `datasets` folder, a Hugging Face id, or `reasoning_gym:<task>[?param=value&…]`."""  # noqa: E501
    subset: str | None = None
    """Configuration name of a Hugging Face data set."""
    split: str = "train"
    """Split of a Hugging Face data set or `datasets` folder."""
    rows: str = "0%:100%"
    """Which rows, in a fixed shuffled order: `0%:80%`, `80%:100%`, `0:500`. Disjoint ranges are disjoint splits."""
    split_seed: int = Field(0, ge=0)
    """Seed of the fixed shuffle behind `rows` (for reasoning_gym: seed of the generated data set)."""
    num_generated: int = Field(10_000, ge=1)
    """Rows to generate from a procedural source (reasoning_gym); repeated questions are then dropped."""
    prompt: str = "{question}"
    """The user message, a template over the columns of a row."""
    reference: str | None = "{answer}"
    """The reference answer, a template over the columns; a column that holds a list gives several references."""
    response: str | None = None
    """The demonstration to learn from (sft), a template over the columns; `reference` where empty."""
    messages: str | None = None
    """Column holding a chat (list of role/content), used instead of `prompt`; a last assistant turn is the demonstration."""  # noqa: E501
    system: str | None = None
    """System message put before the prompt."""
    template: str = "chat"
    """`chat` uses the tokenizer's chat template; anything else is a plain template with `{prompt}`."""
    shuffle: bool = True
    """New order in every epoch, from the run's seed; false keeps the order of the rows."""
    skip_too_long: bool = False
    """Leave out (and count) rows longer than the context; false stops with an error that names the first."""

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        check_range_syntax(self.rows)
        for text in (self.prompt, self.reference, self.response):
            Template(text or "")
        if self.template == "chat":
            return self
        if "{prompt}" not in self.template:
            raise ValueError(f"template {self.template!r}: write `chat`, or a plain template with {{prompt}} in it")
        if self.messages is not None:
            raise ValueError("`messages` needs `template: chat`; a plain template has no place for a chat")
        if self.system is not None:
            raise ValueError("`system` needs `template: chat`; in a plain template write its text in the template")
        return self


class PromptSource:
    """Rows of one data source as prompts, without end: epoch after epoch, each in its own order."""

    def __init__(
        self,
        config: DataConfig,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
        mapped: Sequence[MappedRow],
        num_skipped: int = 0,
    ) -> None:
        """Use `open`; this one takes rows that are mapped and checked."""
        self.config = config
        self.seed = seed
        self.num_skipped = num_skipped
        """Rows left out because they are too long."""
        self.fingerprint = fingerprint_rows(config, mapped)
        """Of the rows and their mapping: the same in every process, another when anything in them changes."""
        self._mapped = mapped
        self._tokenizer = tokenizer
        self._order = functools.lru_cache(maxsize=4)(self._epoch_order)

    @classmethod
    def open(
        cls,
        config: DataConfig,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
        max_prompt_tokens: int,
        max_sequence_tokens: int | None = None,
    ) -> PromptSource:
        """Read, map and check every row.

        `max_sequence_tokens`, where given, is the limit for a prompt with its demonstration and end token, and every
        row must then have a demonstration.
        """
        assert seed >= 0, "seeds are natural numbers"
        return cls(config, tokenizer, seed, load_mapped_rows(config))

    def __len__(self) -> int:
        return len(self._mapped)

    def _epoch_order(self, epoch: int) -> IndexArray:
        return epoch_order(self.seed, epoch, len(self))


def load_mapped_rows(config: DataConfig) -> list[MappedRow]:
    """The rows that `config.rows` chooses, mapped; in the order of the source, whatever the range."""
    rows: list[Row] = read_rows(
        config.source, config.subset, config.split, config.num_generated, generator_seed=config.split_seed
    )
    try:
        chosen = np.sort(select_rows(config.rows, len(rows), config.split_seed))
    except ValueError as error:
        raise ValueError(f"{config.source}: {error}") from error
    return map_rows(config, rows, chosen.tolist())
