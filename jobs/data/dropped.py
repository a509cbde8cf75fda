"""A row that a data job left out, as `dropped.jsonl` and its pages tell it.

Given by whatever leaves it out; one row is one line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Dropped:
    """Which row, where, and why."""

    row_id: Any
    """As the data name it: a number or a text."""
    stage: str
    reason: str
    """Short, the same for all rows of a kind."""
    text: str = ""
    """What there was of it, or what went wrong."""
