"""Whether trusted rows and rows to weigh are what they should be: not swapped, not the same rows.

Given both data sets, opened; gives warnings with counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from raylign.jobs.config.train import TrainConfig
from raylign.jobs.curricula.two_levels import open_levels
from raylign.rollout.data.prompts import PromptSource

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def level_warnings(weighed: PromptSource, trusted: PromptSource, trusted_are_pairs: bool) -> Iterator[str]:
    """What looks wrong about the two."""
    if len(trusted) > len(weighed):
        yield (
            f"trusted_data has {len(trusted)} rows and data {len(weighed)}: the trusted set is usually the smaller "
            "one; are the two swapped?"
        )
    if trusted_are_pairs:
        pairs = (trusted.pair(ordinal) for ordinal in range(len(trusted)))  # one epoch: every row once
        above = {(pair.prompt.text, pair.chosen) for pair in pairs}
    else:
        above = {trusted.texts_of_row(row) for row in range(len(trusted))}
    below = [weighed.texts_of_row(row) for row in range(len(weighed))]
    questions = {prompt for prompt, _ in above}
    if num_same := sum(texts in above for texts in below):
        yield (
            f"{num_same} of {len(below)} rows of data stand in trusted_data with the same response: such rows can only "
            "gain weight"
        )
    num_questions = sum(prompt in questions and (prompt, response) not in above for prompt, response in below)
    if num_questions:
        yield f"{num_questions} of {len(below)} rows of data have a prompt of trusted_data with another response"


def check_levels(config: TrainConfig, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The warnings of a run; errors where either set cannot be used."""
    weighed, trusted = open_levels(config, tokenizer)
    return list(level_warnings(weighed, trusted, config.algorithm.trusted_kind == "pairs"))
