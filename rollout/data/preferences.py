"""Preference rows: a prompt with a chosen and a rejected answer, from several formats, as token ids.

Given a `DataConfig` with its `pairs` section and a tokenizer; gives `PreferencePair`s in the run's order. Prompt and
answers are encoded apart, without special tokens but for the end token after each finished answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from raylign.rollout.data.chats import Message
from raylign.rollout.data.config import PairsConfig
from raylign.rollout.data.encoding import EncodedTexts, with_end
from raylign.rollout.data.mapping import MappedRow, answer_in, is_more_than_text, row_name
from raylign.rollout.data.pair_formats import pair_rows
from raylign.rollout.data.sources import Row
from raylign.rollout.data.templates import Template, is_missing, look_up
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


@dataclass(frozen=True)
class UsablePairs:
    """Pairs that something can be learned from."""

    places: list[int]
    """Of their rows among all."""
    answers: list[AnswerPair]
    num_cut_prompts: int
    num_cut_answers: int


def expand_rows(config: PairsConfig, rows: Sequence[Row]) -> Sequence[Row]:
    """Rows of any format with the columns `prompt`, `chosen` and `rejected`; chats are found in `row_formats.py`."""
    return rows if config.format in ("columns", "messages") else pair_rows(config.format, rows)


def answers_of(
    config: PairsConfig, item: MappedRow, source: str, write: Callable[[MappedRow, Message], str]
) -> AnswerPair:
    """The answers of a row; an error that names it where they cannot be read. `write`: a message as a template does."""
    where = f"{source}, {row_name(item.index)}"
    try:
        answers = [answer_in(Template(text), item.row) for text in (config.chosen, config.rejected)]
        probability = 1.0 if config.probability is None else float(look_up(item.row, config.probability))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from error
    if not 0 <= probability <= 1:
        raise ValueError(f"{where}: `{config.probability}` is {probability:g}, not a probability")
    chosen, rejected = (
        "" if answer is None else write(item, answer) if is_more_than_text(answer) else answer["content"]
        for answer in answers
    )
    num_drawn = item.row.get("n")
    return AnswerPair(
        chosen,
        rejected,
        bool(item.row.get("chosen_finished", True)),
        bool(item.row.get("rejected_finished", True)),
        probability,
        int(num_drawn) if isinstance(num_drawn, (int, float)) and not is_missing(num_drawn) else None,
    )


def usable_pairs(
    config: PairsConfig,
    mapped: Sequence[MappedRow],
    answers: Sequence[AnswerPair],
    prompts: EncodedTexts,
    encoder: PairEncoder,
    source: str,
) -> UsablePairs:
    """Those that can be learned from as they are trained: after the cut to the context."""
    found = UsablePairs([], [], 0, 0)
    refused: list[str] = []
    num_cut_prompts = num_cut_answers = 0
    for place, (item, pair) in enumerate(zip(mapped, answers, strict=True)):
        why = encoder.unusable(pair)
        if why is None and encoder.may_be_cut(prompts.texts[place], pair):
            whole = (
                prompts.token_ids(place),
                encoder.encode(pair.chosen, pair.chosen_ends),
                encoder.encode(pair.rejected, pair.rejected_ends),
            )
            cut = encoder.cut(*whole)
            if np.array_equal(cut[1], cut[2]):
                why = f"chosen and rejected are the same once they are cut to {len(cut[1])} tokens"
            else:
                num_cut_prompts += len(cut[0]) < len(whole[0])
                num_cut_answers += sum(len(short) < len(long) for short, long in zip(cut[1:], whole[1:], strict=True))
        if why is not None:
            refused.append(f"{source}, {row_name(item.index)}: {why}")
            continue
        found.places.append(place)
        found.answers.append(pair)
    if refused and not config.skip_unusable:
        raise ValueError(
            f"{refused[0]}; so are {len(refused)} of {len(mapped)} pairs. Mend them, or set pairs.skip_unusable: true "
            "to leave such pairs out"
        )
    return replace(found, num_cut_prompts=num_cut_prompts, num_cut_answers=num_cut_answers)


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
        return with_end(ids, self._tokenizer.eos_token_id if ends else None)

    def unusable(self, pair: AnswerPair) -> str | None:
        """Why nothing can be learned from a pair. Both get an end token, so one more in the text is no difference."""
        end = str(self._tokenizer.eos_token)
        chosen, rejected = (text.removesuffix(end) for text in (pair.chosen, pair.rejected))
        if not chosen.strip() or not rejected.strip():
            return f"the {'rejected' if chosen.strip() else 'chosen'} answer is empty"
        if chosen == rejected:
            return "chosen and rejected are the same"
        return None

    def may_be_cut(self, prompt: str, pair: AnswerPair) -> bool:
        """Whether a pair can be longer than the context; no token is less than an ASCII character."""
        if self._config.max_prompt_tokens is None:
            return False
        longer = max(len(pair.chosen), len(pair.rejected)) + 1
        texts = (prompt, pair.chosen, pair.rejected)
        return len(prompt) + longer > self._max_tokens or not all(text.isascii() for text in texts)

    def fit_prompt(self, token_ids: IntArray) -> IntArray:
        """A prompt, cut where it leaves no room for an answer."""
        if len(token_ids) <= self._max_prompt_tokens or self._config.max_prompt_tokens is None:
            return token_ids
        return self._cut(token_ids, min(self._config.max_prompt_tokens, self._max_prompt_tokens))

    def _cut(self, token_ids: IntArray, size: int) -> IntArray:
        return token_ids[-size:] if self._config.keep == "end" else token_ids[:size]

    def cut(self, prompt: IntArray, chosen: IntArray, rejected: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        """The token ids that are trained: where they are too long, first the prompt is cut, then both answers."""
        size = self._config.max_prompt_tokens
        if size is None or len(prompt) + max(len(chosen), len(rejected)) <= self._max_tokens:
            return prompt, chosen, rejected
        room = self._max_tokens - size
        return self._cut(prompt, size), chosen[:room], rejected[:room]

    def fit(self, pair: PreferencePair) -> PreferencePair:
        """The pair, cut where it is too long."""
        prompt_ids, chosen_ids, rejected_ids = self.cut(pair.prompt.token_ids, pair.chosen_ids, pair.rejected_ids)
        prompt = replace(pair.prompt, token_ids=prompt_ids)
        return replace(pair, prompt=prompt, chosen_ids=chosen_ids, rejected_ids=rejected_ids)
