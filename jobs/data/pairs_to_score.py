"""The pairs of `raylign data score-pairs`: each with the row that it came from, as the user has it.

Given a `ScorePairsConfig`; gives the pairs of every split in the order of the rows, and what is left out with its
reason. A row with two equal answers stays; one with an empty answer has nothing to score.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from raylign.jobs.data.score_pairs_config import ALL_SPLITS, ScorePairsConfig
from raylign.rollout.data.chats import Message
from raylign.rollout.data.encoding import render_answer, render_prompts
from raylign.rollout.data.loading import LoadedRows, map_read_rows
from raylign.rollout.data.mapping import MappedRow
from raylign.rollout.data.preferences import answers_of, expand_rows
from raylign.rollout.data.sources import Reading, Row, read_source, split_names

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NOT_CHOSEN, NOT_THE_TURN, NO_PAIR = "not in data.rows", "not every k-th row", "no pair in the row"


@dataclass(frozen=True)
class PairToScore:
    """One pair."""

    split: str
    origin: int
    """Place of its row in the split, from 0."""
    row: Row
    """The user's row."""
    item: MappedRow
    prompt: str
    chosen: str
    rejected: str

    @property
    def row_id(self) -> str:
        """Of its row in the journal."""
        return f"{self.split}:{self.item.index}"

    @property
    def is_equal(self) -> bool:
        """Whether both answers are the same."""
        return self.chosen == self.rejected


@dataclass
class PairsOfSplit:
    """One split."""

    split: str
    num_rows: int
    pairs: list[PairToScore] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """Rows by reason."""
    dropped: list[dict[str, Any]] = field(default_factory=list)
    """Those that could not be scored, with their reasons."""

    def drop(self, origin: int, reason: str, message: str = "") -> None:
        """Leave one out and note why."""
        self.left_out[reason] += 1
        self.dropped.append({"split": self.split, "row": origin, "reason": reason, "message": message})


def read_pairs(config: ScorePairsConfig) -> list[PairsOfSplit]:
    """Every split that is asked for."""
    data = config.data
    if data.split != ALL_SPLITS:
        return [_of_split(config, data.split)]
    return [_of_split(config, split) for split in split_names(data.source, data.subset) or [data.split]]


def _of_split(config: ScorePairsConfig, split: str) -> PairsOfSplit:
    data = config.data
    reading = Reading(data.encoding, data.delimiter, data.max_unpacked_gib)
    read = read_source(data.source, data.subset, split, data.num_generated, data.split_seed, reading)
    loaded = map_read_rows(data, read, as_pairs=True)
    # which row each pair comes from, and what of it the user sees: a row that holds several pairs is said of each
    expanded = [list(expand_rows(data.pairs, [row])) for row in read.rows]
    origins = [origin for origin, rows in enumerate(expanded) for _ in rows]
    shown = [read.rows[origin] if len(rows) == 1 else row for origin, rows in enumerate(expanded) for row in rows]
    found = PairsOfSplit(split, len(read.rows))
    if without := sum(not rows for rows in expanded):
        found.left_out[NO_PAIR] = without
    if not_chosen := len(origins) - len(loaded.mapped):
        found.left_out[NOT_CHOSEN] = not_chosen
    taken = loaded.mapped[:: config.step]
    if skipped := len(loaded.mapped) - len(taken):
        found.left_out[NOT_THE_TURN] = skipped
    _fill(found, config, loaded, taken, origins, shown)
    return found


def _fill(
    found: PairsOfSplit,
    config: ScorePairsConfig,
    loaded: LoadedRows,
    taken: Sequence[MappedRow],
    origins: Sequence[int],
    shown: Sequence[Row],
) -> None:
    from raylign.rollout.model_folder import load_tokenizer

    tokenizer = load_tokenizer(config.model) if config.model is not None else None
    prompts = _prompts(tokenizer, taken, loaded)
    for item, prompt in zip(taken, prompts, strict=True):
        origin = origins[item.index]

        def write(item: MappedRow, answer: Message, prompt: str = prompt) -> str:
            if tokenizer is None:
                raise ValueError("an answer that calls tools is written by a chat template: give `model`")
            return render_answer(tokenizer, item, answer, prompt, config.data.source)

        answers = answers_of(config.data.pairs, item, config.data.source, write)
        empty = [side for side in ("chosen", "rejected") if not getattr(answers, side).strip()]
        if empty:
            found.drop(origin, f"empty {' and '.join(empty)} answer")
            continue
        pair = PairToScore(found.split, origin, shown[item.index], item, prompt, answers.chosen, answers.rejected)
        found.pairs.append(pair)


def _prompts(tokenizer: PreTrainedTokenizerBase | None, taken: Sequence[MappedRow], loaded: LoadedRows) -> list[str]:
    """As training writes them; without a tokenizer as the data has them."""
    if tokenizer is not None:
        return render_prompts(tokenizer, taken, loaded.config)
    template = loaded.config.template
    return [
        _said(item) if template == "chat" else template.replace("{prompt}", item.messages[-1]["content"])
        for item in taken
    ]


def _said(item: MappedRow) -> str:
    """A chat of one message is that message."""
    if len(item.messages) == 1:
        return str(item.messages[0]["content"])
    return "\n\n".join(f"{turn['role']}: {turn.get('content') or ''}" for turn in item.messages)
