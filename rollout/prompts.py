"""Where prompts come from, and in which order.

Given a `DataConfig` and a tokenizer, gives `Prompt`s. Order is a pure function of (seed, ordinal), so the whole
data cursor is two integers.
"""

from __future__ import annotations

from pydantic import BaseModel, Field


class DataConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """One data source and how its rows become prompts."""

    source: str = "reasoning_gym:chain_sum"
    """A .jsonl/.csv/.parquet file (.gz too), a `datasets` folder, a Hugging Face id, or `reasoning_gym:<task>[?param=value&…]`."""
    subset: str | None = None
    """Configuration name of a Hugging Face data set."""
    split: str = "train"
    """Split of a Hugging Face data set or `datasets` folder."""
    rows: str = "0%:100%"
    """Which rows, in a fixed shuffled order: `0%:80%`, `80%:100%`, `0:500`. Disjoint ranges are disjoint splits."""
    split_seed: int = 0
    """Seed of the fixed shuffle behind `rows` (for reasoning_gym: seed of the generated data set)."""
    num_generated: int = Field(10_000, ge=1)
    """Rows to generate from a procedural source (reasoning_gym)."""
    prompt: str = "{question}"
    """The user message, a template over the columns of a row."""
    reference: str | None = "{answer}"
    """The reference answer, a template over the columns; a column that holds a list gives several references."""
    response: str | None = None
    """The demonstration to learn from (sft), a template over the columns; `reference` where empty."""
    messages: str | None = None
    """Column holding a chat (list of role/content); used instead of `prompt`."""
    system: str | None = None
    """System message put before the prompt."""
    template: str = "chat"
    """`chat` uses the tokenizer's chat template; anything else is a plain template with `{prompt}`."""
    shuffle: bool = True
    """New order in every epoch, from the run's seed; false keeps the order of the rows."""
