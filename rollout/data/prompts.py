"""Where prompts come from, and in which order.

Given a `DataConfig` and a tokenizer, gives `Prompt`s. Order is a pure function of (seed, ordinal), so the whole
data cursor is two integers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from raylign.rollout.data.chats import Message
from raylign.rollout.data.config import DataConfig
from raylign.rollout.data.encoding import EncodedTexts, render_answer, render_prompts
from raylign.rollout.data.loading import LoadedRows, demonstration_of, keep_answered, keep_short, load_rows
from raylign.rollout.data.mapping import MappedRow, fingerprint_rows
from raylign.rollout.data.order import epoch_order
from raylign.rollout.data.preferences import (
    AnswerPair,
    PairEncoder,
    answers_of,
    usable_pairs,
)
from raylign.rollout.data.template_check import template_warnings
from raylign.rollout.data.text_checks import text_warnings
from raylign.rollout.sample import IntArray, PreferencePair, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


NUM_LOOKED_AT = 20
"""First rows whose prompt and answer are held against the chat template."""


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
        self.num_in_source = len(mapped)
        """Rows of the source, before `rows` chose among them."""
        self.num_unusable = 0
        """Pairs left out because nothing can be learned from them."""
        self.num_unanswered = 0
        """Rows left out because they have no demonstration or reference."""
        self.found = ""
        """What the rows were found to be, in words; empty where the config says it."""
        self.notes: list[str] = []
        """What a user should know of how the rows were read."""
        self.warnings: list[str] = []
        """What looks wrong with them."""
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
        needs_references: bool = False,
    ) -> PromptSource:
        """Read, map, encode and check every row, before anything heavy starts.

        `max_sequence_tokens` is for learning from demonstrations: every row must then have one, and prompt,
        demonstration and end token together are held to it. `needs_references`: a reward compares with them.
        """
        assert seed >= 0, f"seeds are natural numbers, not {seed}"
        loaded = load_rows(config)
        config, learns = loaded.config, max_sequence_tokens is not None
        mapped = keep_answered(config, loaded.mapped, learns, needs_references and not learns)
        prompts = EncodedTexts(tokenizer, render_prompts(tokenizer, mapped, config))
        kept = keep_short(config, mapped, [prompts], max_prompt_tokens, "prompt")
        demonstrations: list[str] = []
        if max_sequence_tokens is not None:
            mapped = [
                item
                if item.answer is None
                else replace(item, response=render_answer(tokenizer, item, item.answer, text, config.source))
                for item, text in zip(mapped, prompts.texts, strict=True)
            ]
            demonstrations = [demonstration_of(config, item) for item in mapped]
            parts = [prompts, EncodedTexts(tokenizer, demonstrations, end_token=True)]
            kept &= keep_short(config, mapped, parts, max_sequence_tokens, "prompt with its demonstration")
        if not kept.any():
            raise ValueError(f"{config.source}: all {len(mapped)} rows are too long, so skip_too_long leaves none")
        chosen = np.flatnonzero(kept).tolist()
        texts = [prompts.texts[place] for place in chosen]
        source = cls(config, tokenizer, seed, [mapped[place] for place in chosen], texts, len(mapped) - len(chosen))
        source.num_unanswered = len(loaded.mapped) - len(mapped)
        source._look_at([[demonstrations[place]] if learns else [] for place in chosen], loaded)
        return source

    @classmethod
    def open_pairs(
        cls,
        config: DataConfig,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
        max_prompt_tokens: int,
        max_sequence_tokens: int,
        needs_references: bool = False,
    ) -> PromptSource:
        """The same for preference pairs: the prompt with the longer answer is held to `max_sequence_tokens`, unless
        `pairs.max_prompt_tokens` says how to cut.
        """
        loaded = load_rows(config, as_pairs=True)
        config, num_rows = loaded.config, len(loaded.mapped)
        loaded = replace(loaded, mapped=keep_answered(config, loaded.mapped, False, needs_references))
        encoder = PairEncoder(config.pairs, tokenizer, max_prompt_tokens, max_sequence_tokens)
        all_prompts = EncodedTexts(tokenizer, render_prompts(tokenizer, loaded.mapped, config))
        prompt_of = {item.index: text for item, text in zip(loaded.mapped, all_prompts.texts, strict=True)}

        def write(item: MappedRow, answer: Message) -> str:
            return render_answer(tokenizer, item, answer, prompt_of[item.index], config.source)

        all_answers = [answers_of(config.pairs, item, config.source, write) for item in loaded.mapped]
        usable = usable_pairs(config.pairs, loaded.mapped, all_answers, all_prompts, encoder, config.source)
        mapped, answers = [loaded.mapped[place] for place in usable.places], usable.answers
        if not mapped:
            raise ValueError(f"{config.source}: none of {len(all_answers)} pairs is usable (pairs.skip_unusable)")
        prompts = EncodedTexts(tokenizer, [all_prompts.texts[place] for place in usable.places])
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
        source.num_unusable = len(loaded.mapped) - len(mapped)
        source.num_unanswered = num_rows - len(loaded.mapped)
        source._answers = [answers[place] for place in chosen]
        source._pair_encoder = encoder
        source._look_at([[pair.chosen, pair.rejected] for pair in source._answers], loaded)
        if usable.num_cut_prompts or usable.num_cut_answers:
            source.notes.append(
                f"cut to the context: {usable.num_cut_prompts} prompts to {config.pairs.max_prompt_tokens} tokens, "
                f"{usable.num_cut_answers} answers"
            )
        return source

    def _look_at(self, answers: Sequence[Sequence[str]], loaded: LoadedRows) -> None:
        """Fill the words about the rows. `answers`: of each row, what is learned from."""
        self.found, self.notes, self.num_in_source = loaded.found, list(loaded.notes), loaded.num_in_source
        source, texts = self.config.source, self._prompts.texts
        self.warnings = text_warnings(self._tokenizer, self._mapped, answers, source)
        if self.config.template == "chat":
            plain = [row[0] for row in answers if row] if all(answers) else []
            checked = [place for place, item in enumerate(self._mapped[:NUM_LOOKED_AT]) if item.answer is None]
            self.warnings += template_warnings(
                self._tokenizer,
                [self._mapped[place] for place in checked],
                [texts[place] for place in checked],
                [plain[place] for place in checked] if plain else [],
                source,
            )

    def texts(self) -> Iterator[tuple[int, str]]:
        """Everything that the model will read or learn, with the row's number: prompts, demonstrations, answers."""
        for place, item in enumerate(self._mapped):
            yield item.index, self._prompts.texts[place]
            if self._answers:
                yield item.index, self._answers[place].chosen
                yield item.index, self._answers[place].rejected
            elif item.response is not None:
                yield item.index, item.response

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
            messages=tuple(dict(message) for message in item.messages),
            row=item.row,
            fingerprint=self.fingerprint,
        )

    def _place(self, ordinal: int) -> int:
        assert ordinal >= 0, f"ordinals are natural numbers, not {ordinal}"
        epoch, position = divmod(ordinal, len(self))
        return int(epoch_order(self.seed, epoch, len(self))[position]) if self.config.shuffle else position
