"""Rows of a data set, as a learner's examples are made of them."""

from __future__ import annotations

from dataclasses import dataclass

from raylign.rollout.sample import Completion, IntArray

Demonstration = tuple[IntArray, IntArray]
"""Prompt and response."""


@dataclass(frozen=True)
class WeighedRow:
    """One row to weigh, in a batch."""

    row: int
    """Its number: the place among the kept rows, from 0."""
    prompt_ids: IntArray
    response_ids: IntArray
    answers: tuple[Completion, ...] | None = None
    """The policy's, learned from instead of the response; None where the response stands. Without a usable one the row
    is left out until it has others."""
