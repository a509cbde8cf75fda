"""The configuration of one data source: where rows come from and what they become.

Given nothing but templates and ranges to check; gives `DataConfig` with its section `pairs`, and
`MoreDataConfig`, the same with a share.
"""

from __future__ import annotations

import io
from typing import Literal

from pydantic import BaseModel, Field, model_validator

from raylign.rollout.data.order import check_range_syntax
from raylign.rollout.data.reasoning import REASONING_SYSTEM
from raylign.rollout.data.templates import Template

PairFormat = Literal[
    "columns",
    "dialogues",
    "messages",
    "best_worst",
    "pku_better",
    "pku_safer",
    "ultrafeedback",
    "webgpt",
    "summarize",
    "shp",
    "stack_exchange",
]


RowFormat = Literal["auto", "columns", "messages", "sharegpt", "alpaca"]


class PairsConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """How rows become preference pairs (dpo, ipo, bonbon, sail, reward_model)."""

    format: PairFormat = "columns"
    """columns: as `prompt`, `chosen`, `rejected` say; chats in them are found and read as such. dialogues: chosen and
    rejected hold the whole dialogue up to the answer (HH). messages: they hold chats, with the prompt in them or in a
    column of its own. best_worst: objects of the best-and-worst-of-n files of the BoNBoN code.
    pku_better, pku_safer, ultrafeedback, webgpt, summarize, shp, stack_exchange: rows as those data sets have them."""
    chosen: str = "{chosen}"
    """The better answer, a template over the columns."""
    rejected: str = "{rejected}"
    """The worse answer, a template over the columns."""
    probability: str | None = None
    """Column with the probability that chosen is the better one (soft labels, `bt_prob`); empty: certain."""
    max_prompt_tokens: int | None = Field(None, ge=1)
    """A pair longer than the context has its prompt cut to so many tokens, then its answers, and so has a prompt that
    leaves no room for `sampling.max_tokens`, where it is answered; empty: it is an error, or left out with
    `skip_too_long`."""
    keep: Literal["start", "end"] = "end"
    """Which part of a prompt that is cut stays."""
    skip_unusable: bool = False
    """Leave out (and count) pairs with an empty answer or twice the same; false: an error names the first."""


class DataConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """One data source and how its rows become prompts."""

    source: str = "reasoning_gym:chain_sum"
    """A .jsonl/.json/.csv/.tsv file (.gz too) or a .parquet file, a folder or a glob of such files, a `datasets` folder, a Hugging Face id, or `reasoning_gym:<task>[?param=value&…]`."""  # noqa: E501
    subset: str | None = None
    """Configuration name of a Hugging Face data set."""
    split: str = "train"
    """Split of a Hugging Face data set, a `datasets` folder, or a folder whose files name splits."""
    encoding: str | None = None
    """How text files are written where it is not UTF-8 and no byte-order mark says so: `cp1252`, `utf-16`."""
    delimiter: str | None = Field(None, min_length=1, max_length=1)
    """What stands between the columns of .csv and .tsv files; empty: found (comma, tab, semicolon or bar)."""
    max_unpacked_gib: float = Field(2.0, gt=0, allow_inf_nan=False)
    """A packed file (.gz, .parquet) that holds more than this is refused; all rows are held in memory. A plain file is
    as large as it looks, and is read whatever its size."""
    format: RowFormat = "auto"
    """What the rows are. auto: found by their columns and said by `plan`. columns: texts, as `prompt`, `reference` and
    `response` say. messages: chats of role and content. sharegpt: chats of from and value. alpaca: `instruction`,
    `input`, `output`."""
    rows: str = "0%:100%"
    """Which rows, in a fixed shuffled order: `0%:80%`, `80%:100%`, `0:500`. Disjoint ranges share no prompt: rows with equal prompts stay together."""  # noqa: E501
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
    """Column holding a chat (list of role/content), used instead of `prompt`; a last assistant turn is the demonstration. Empty: found, unless `format: columns`."""  # noqa: E501
    tools: str | None = None
    """Column with the tools that a chat may call (list of JSON schemas), for the chat template; empty: `tools`."""
    system: str | None = None
    """System message put before the prompt."""
    reasoning: bool = False
    """Use the system message that asks for <think>…</think> and <answer>…</answer>; training by rewards then needs the
    reward `format`."""
    pairs: PairsConfig = PairsConfig()
    template: str = "chat"
    """`chat` uses the tokenizer's chat template; anything else is a plain template with `{prompt}`."""
    shuffle: bool = True
    """New order in every epoch, from the run's seed; false keeps the order of the rows."""
    skip_too_long: bool = False
    """Leave out (and count) rows longer than the context; false stops with an error that names the first."""
    skip_unanswered: bool = False
    """Leave out (and count) rows without a demonstration to learn from, or without a reference where a reward needs
    one; false stops with an error that names the first."""

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        check_range_syntax(self.rows)
        if self.reasoning:
            if self.system not in (None, REASONING_SYSTEM):
                raise ValueError("`reasoning` puts a system message of its own before the prompt: give it or `system`")
            self.system = REASONING_SYSTEM
        if self.encoding is not None:
            try:
                io.TextIOWrapper(io.BytesIO(), encoding=self.encoding)  # base64 is a codec too, and no text's
            except LookupError:
                raise ValueError(
                    f"encoding {self.encoding!r} is not known; for instance utf-8, cp1252, utf-16"
                ) from None
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


class MoreDataConfig(DataConfig):
    """A further source of preference pairs, mapped by keys of its own."""

    share: float | None = Field(None, gt=0, lt=1)
    """Part of the run's rows that are this source's, above 0 and below 1; `data` has what all of them leave. The source
    is gone through again, or not to its end, as that needs. Empty in all: the part of its rows, each once an epoch."""
