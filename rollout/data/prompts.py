"""Where prompts come from, and in which order.

Given a `DataConfig` and a tokenizer, gives `Prompt`s. Order is a pure function of (seed, ordinal), so the whole
data cursor is two integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from raylign.rollout.data.config import DataConfig
from raylign.rollout.data.encoding import EncodedTexts, joint_lengths, render_prompts
from raylign.rollout.data.mapping import MappedRow, fingerprint_rows, map_rows, row_name
from raylign.rollout.data.order import epoch_order, select_rows
from raylign.rollout.data.preferences import (
    AnswerPair,
    PairEncoder,
    expand_rows,
    usable_pairs,
)
from raylign.rollout.data.sources import is_hugging_face_name, read_rows
from raylign.rollout.sample import IntArray, PreferencePair, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PromptSource:
    """Rows of one data source as prompts, without end: epoch after epoch, each in its own order."""

    def __init__(
        self,
        config: DataConfig,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
        mapped: Sequence[MappedRow],
        texts: Sequence[str],
        num_skipped: int,
    ) -> None:
        """`open` makes one; this takes rows that are mapped, rendered and checked."""
        assert len(mapped) == len(texts) > 0, f"{len(mapped)} rows, {len(texts)} prompts"
        self.config = config
        self.seed = seed
        self.num_skipped = num_skipped
        """Rows left out because they are too long."""
        self.fingerprint = fingerprint_rows(config, mapped)
        """Of the rows and their mapping: the same in every process, another when anything in them changes."""
        self._mapped = mapped
        self._prompts = EncodedTexts(tokenizer, texts)
        self._tokenizer = tokenizer
        self.num_unusable = 0
        """Pairs left out because nothing can be learned from them."""
        self._answers: list[AnswerPair] = []
        self._pair_encoder: PairEncoder | None = None

    @classmethod
    def open(
        cls,
        config: DataConfig,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
        max_prompt_tokens: int,
        max_sequence_tokens: int | None = None,
    ) -> PromptSource:
        """Read, map, encode and check every row, before anything heavy starts.

        `max_sequence_tokens` is for learning from demonstrations: every row must then have one, and prompt,
        demonstration and end token together are held to it.
        """
        assert seed >= 0, f"seeds are natural numbers, not {seed}"
        mapped = load_mapped_rows(config)
        prompts = EncodedTexts(tokenizer, render_prompts(tokenizer, mapped, config))
        kept = keep_short(config, mapped, [prompts], max_prompt_tokens, "prompt")
        if max_sequence_tokens is not None:
            demonstrations = [demonstration_of(config, item) for item in mapped]
            parts = [prompts, EncodedTexts(tokenizer, demonstrations, end_token=True)]
            kept &= keep_short(config, mapped, parts, max_sequence_tokens, "prompt with its demonstration")
        if not kept.any():
            raise ValueError(f"{config.source}: all {len(mapped)} rows are too long, so skip_too_long leaves none")
        chosen = np.flatnonzero(kept).tolist()
        texts = [prompts.texts[place] for place in chosen]
        num_skipped = len(mapped) - len(chosen)
        return cls(config, tokenizer, seed, [mapped[place] for place in chosen], texts, num_skipped)

    @classmethod
    def open_pairs(
        cls,
        config: DataConfig,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
        max_prompt_tokens: int,
        max_sequence_tokens: int,
    ) -> PromptSource:
        """The same for preference pairs: the prompt with the longer answer is held to `max_sequence_tokens`, unless
        `pairs.max_prompt_tokens` says how to cut.
        """
        all_mapped = load_mapped_rows(config)
        places, answers = usable_pairs(config.pairs, all_mapped, config.source)
        mapped = [all_mapped[place] for place in places]
        if not mapped:
            raise ValueError(f"{config.source}: none of {len(all_mapped)} pairs is usable (pairs.skip_unusable)")
        prompts = EncodedTexts(tokenizer, render_prompts(tokenizer, mapped, config))
        encoder = PairEncoder(config.pairs, tokenizer, max_prompt_tokens, max_sequence_tokens)
        if config.pairs.max_prompt_tokens is None:
            kept = keep_short(config, mapped, [prompts], max_prompt_tokens, "prompt")
            for side in ("chosen", "rejected"):
                texts = EncodedTexts(tokenizer, [getattr(pair, side) for pair in answers], end_token=True)
                kept &= keep_short(
                    config, mapped, [prompts, texts], max_sequence_tokens, f"prompt with its {side} answer"
                )
        else:
            kept = np.ones(len(mapped), bool)
        chosen = np.flatnonzero(kept).tolist()
        if not chosen:
            raise ValueError(f"{config.source}: all {len(mapped)} pairs are too long, so skip_too_long leaves none")
        texts_of_prompts = [prompts.texts[place] for place in chosen]
        num_skipped = len(mapped) - len(chosen)
        source = cls(config, tokenizer, seed, [mapped[place] for place in chosen], texts_of_prompts, num_skipped)
        source.num_unusable = len(all_mapped) - len(mapped)
        source._answers = [answers[place] for place in chosen]
        source._pair_encoder = encoder
        return source

    def __len__(self) -> int:
        """Rows in one epoch."""
        return len(self._mapped)

    def prompt(self, ordinal: int) -> Prompt:
        """The prompt at one place of the run's order."""
        return self.take(ordinal, 1)[0]

    def take(self, start_ordinal: int, count: int) -> list[Prompt]:
        """`count` prompts from `start_ordinal` on."""
        ordinals = range(start_ordinal, start_ordinal + count)
        places = [self._place(ordinal) for ordinal in ordinals]
        encoded = self._prompts.batch(places)
        return [self._prompt(*item) for item in zip(ordinals, places, encoded, strict=True)]

    def row(self, ordinal: int) -> int:
        """Which row stands at one place of the run's order: its number among the kept ones, from 0."""
        return self._place(ordinal)

    def prompt_of_row(self, row: int, ordinal: int) -> Prompt:
        """A row's prompt outside the run's order, under an ordinal of the caller's."""
        return self._prompt(ordinal, row, self._prompts.token_ids(row))

    def texts_of_row(self, row: int) -> tuple[str, str]:
        """A row's prompt and demonstration, as text."""
        return self._prompts.texts[row], demonstration_of(self.config, self._mapped[row])

    def mapped_row(self, row: int) -> MappedRow:
        """A row as it stands in the data."""
        return self._mapped[row]

    def demonstration(self, ordinal: int) -> tuple[Prompt, str, IntArray]:
        """A prompt, the response to learn for it, and that response's token ids with the end token."""
        response = demonstration_of(self.config, self._mapped[self._place(ordinal)])
        token_ids = EncodedTexts(self._tokenizer, [response], end_token=True).token_ids(0)
        return self.prompt(ordinal), response, token_ids

    def pair(self, ordinal: int) -> PreferencePair:
        """The preference pair at one place of the run's order; only of a source opened by `open_pairs`."""
        answers = self._answers[self._place(ordinal)]
        encoder = self._pair_encoder
        assert encoder is not None, "opened by open_pairs"
        return encoder.fit(
            PreferencePair(
                self.prompt(ordinal),
                encoder.encode(answers.chosen, answers.chosen_ends),
                encoder.encode(answers.rejected, answers.rejected_ends),
                answers.chosen,
                answers.rejected,
                answers.probability,
                answers.num_drawn,
            )
        )

    def _prompt(self, ordinal: int, place: int, token_ids: IntArray) -> Prompt:
        item = self._mapped[place]
        if self._pair_encoder is not None:
            token_ids = self._pair_encoder.fit_prompt(token_ids)
        return Prompt(
            prompt_id=f"{self.fingerprint[:8]}-{item.index}",
            ordinal=ordinal,
            text=self._prompts.texts[place],
            token_ids=token_ids,
            references=item.references,
            messages=tuple({"role": message["role"], "content": message["content"]} for message in item.messages),
            row=item.row,
            fingerprint=self.fingerprint,
        )

    def _place(self, ordinal: int) -> int:
        assert ordinal >= 0, f"ordinals are natural numbers, not {ordinal}"
        epoch, position = divmod(ordinal, len(self))
        return int(epoch_order(self.seed, epoch, len(self))[position]) if self.config.shuffle else position


def load_mapped_rows(config: DataConfig) -> list[MappedRow]:
    """The rows that `config.rows` chooses, mapped; in the order of the source, whatever the range."""
    if config.subset is not None and not is_hugging_face_name(config.source):
        raise ValueError(f"`subset` {config.subset!r} is for Hugging Face data sets; {config.source!r} is none")
    rows = read_rows(config.source, config.subset, config.split, config.num_generated, generator_seed=config.split_seed)
    try:
        rows = list(expand_rows(config.pairs, rows))
    except ValueError as error:
        raise ValueError(f"{config.source}, {error}") from error
    mapped = map_rows(config, rows)
    try:
        chosen = select_rows(config.rows, [str(item.messages) for item in mapped], config.split_seed)
    except ValueError as error:
        raise ValueError(f"{config.source}: {error}") from error
    return [mapped[index] for index in np.sort(chosen)]


def keep_short(
    config: DataConfig, mapped: Sequence[MappedRow], parts: Sequence[EncodedTexts], limit: int, what: str
) -> NDArray[np.bool_]:
    """Which rows are within the limit; an error unless the config allows to leave the others out."""
    lengths = joint_lengths(parts, limit)
    kept: NDArray[np.bool_] = lengths <= limit
    if kept.all() or config.skip_too_long:
        return kept
    first = int(np.flatnonzero(~kept)[0])
    raise ValueError(
        f"{config.source}, {row_name(mapped[first].index)}: the {what} has {lengths[first]} tokens, more than the "
        f"{limit} that the context leaves for it; so have {np.count_nonzero(~kept)} of {len(kept)} rows (longest "
        f"{lengths.max()}). Raise the context length, or set skip_too_long: true to leave such rows out"
    )


def demonstration_of(config: DataConfig, item: MappedRow) -> str:
    """A row's demonstration; an error where it has none."""
    if item.response is None:
        raise ValueError(
            f"{config.source}, {row_name(item.index)}: no demonstration to learn from; set `response` (or "
            "`reference`) to a template over the columns"
        )
    return item.response
