"""Preference rows: a prompt with a chosen and a rejected answer, from several formats, as token ids.

Given a `DataConfig` with its `pairs` section and a tokenizer; gives `PreferencePair`s in the run's order. Prompt and
answers are encoded apart, without special tokens but for the end token after each finished answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from raylign.rollout.data.config import PairsConfig
from raylign.rollout.data.mapping import MappedRow, row_name
from raylign.rollout.data.pair_formats import pair_rows
from raylign.rollout.data.sources import Row
from raylign.rollout.data.templates import Template, look_up
from raylign.rollout.sample import IntArray, PreferencePair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class AnswerPair:
    """The two answers of one row, as text."""

    chosen: str
    rejected: str
    chosen_ends: bool
    """Whether it ended by itself, and so gets an end token; an answer cut at a token limit did not."""
    rejected_ends: bool
    probability: float
    num_drawn: int | None


def expand_rows(config: PairsConfig, rows: Sequence[Row]) -> Sequence[Row]:
    """Rows of any format with the columns `prompt` (or `prompt_messages`), `chosen` and `rejected`."""
    return rows if config.format == "columns" else pair_rows(config.format, rows)


def answers_of(config: PairsConfig, item: MappedRow, source: str) -> AnswerPair:
    """The answers of a row; an error that names it where they cannot be read."""
    where = f"{source}, {row_name(item.index)}"
    try:
        chosen, rejected = Template(config.chosen).render(item.row), Template(config.rejected).render(item.row)
        probability = 1.0 if config.probability is None else float(look_up(item.row, config.probability))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from error
    if not 0 <= probability <= 1:
        raise ValueError(f"{where}: `{config.probability}` is {probability:g}, not a probability")
    num_drawn = item.row.get("n")
    return AnswerPair(
        chosen,
        rejected,
        bool(item.row.get("chosen_finished", True)),
        bool(item.row.get("rejected_finished", True)),
        probability,
        int(num_drawn) if isinstance(num_drawn, (int, float)) else None,
    )


def unusable(pair: AnswerPair) -> str | None:
    """Why nothing can be learned from a pair."""
    if not pair.chosen.strip() or not pair.rejected.strip():
        return f"the {'rejected' if pair.chosen.strip() else 'chosen'} answer is empty"
    if pair.chosen == pair.rejected:
        return "chosen and rejected are the same"
    return None


def usable_pairs(config: PairsConfig, mapped: Sequence[MappedRow], source: str) -> tuple[list[int], list[AnswerPair]]:
    """Places of the rows that can be learned from, and their answers."""
    places: list[int] = []
    pairs: list[AnswerPair] = []
    refused: list[str] = []
    for place, item in enumerate(mapped):
        pair = answers_of(config, item, source)
        if why := unusable(pair):
            refused.append(f"{source}, {row_name(item.index)}: {why}")
            continue
        places.append(place)
        pairs.append(pair)
    if refused and not config.skip_unusable:
        raise ValueError(
            f"{refused[0]}; so are {len(refused)} of {len(mapped)} pairs. Mend them, or set pairs.skip_unusable: true "
            "to leave such pairs out"
        )
    return places, pairs


class PairEncoder:
    """Texts of a pair to token ids, cut to the context where the config allows."""

    def __init__(
        self, config: PairsConfig, tokenizer: PreTrainedTokenizerBase, max_prompt_tokens: int, max_tokens: int
    ) -> None:
        """`max_prompt_tokens`: where answers are sampled, what their room leaves of the context."""
        if config.max_prompt_tokens is not None and config.max_prompt_tokens >= max_tokens:
            raise ValueError(
                f"pairs.max_prompt_tokens is {config.max_prompt_tokens}: a prompt cut to that leaves no room for an "
                f"answer in a context of {max_tokens} tokens (rollout.engine.max_model_len)"
            )
        self._config, self._tokenizer = config, tokenizer
        self._max_prompt_tokens, self._max_tokens = max_prompt_tokens, max_tokens

    def encode(self, answer: str, ends: bool) -> IntArray:
        """Token ids of an answer."""
        ids: Any = self._tokenizer(answer, add_special_tokens=False)["input_ids"]
        end = [self._tokenizer.eos_token_id] if ends else []
        return np.array([*ids, *end], np.int32)

    def fit_prompt(self, token_ids: IntArray) -> IntArray:
        """A prompt, cut where it leaves no room for an answer."""
        if len(token_ids) <= self._max_prompt_tokens or self._config.max_prompt_tokens is None:
            return token_ids
        return self._cut(token_ids, min(self._config.max_prompt_tokens, self._max_prompt_tokens))

    def _cut(self, token_ids: IntArray, size: int) -> IntArray:
        return token_ids[-size:] if self._config.keep == "end" else token_ids[:size]

    def fit(self, pair: PreferencePair) -> PreferencePair:
        """The pair, cut where it is too long: first the prompt, then both answers."""
        limit, config = self._max_tokens, self._config
        longer = max(len(pair.chosen_ids), len(pair.rejected_ids))
        if len(pair.prompt.token_ids) + longer <= limit or config.max_prompt_tokens is None:
            return pair
        size = config.max_prompt_tokens
        prompt_ids = self._cut(pair.prompt.token_ids, size)
        room = limit - size
        return replace(
            pair,
            prompt=replace(pair.prompt, token_ids=prompt_ids),
            chosen_ids=pair.chosen_ids[:room],
            rejected_ids=pair.rejected_ids[:room],
        )
