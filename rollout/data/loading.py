"""A data source's rows, read, mapped and held to what is asked of them.

Given a `DataConfig`; gives its rows in the order of the source, without those that may be left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raylign.rollout.data.config import DataConfig, PairsConfig
from raylign.rollout.data.encoding import EncodedTexts, joint_lengths
from raylign.rollout.data.mapping import MappedRow, map_rows, row_name
from raylign.rollout.data.order import select_rows
from raylign.rollout.data.pair_formats import likely_format
from raylign.rollout.data.preferences import expand_rows
from raylign.rollout.data.row_formats import find_format
from raylign.rollout.data.sources import Reading, RowsRead, is_hugging_face_name, read_source


@dataclass(frozen=True)
class LoadedRows:
    """Rows that are mapped, and how they were read."""

    mapped: list[MappedRow]
    config: DataConfig
    """With the keys that the found format sets."""
    found: str
    notes: list[str]
    num_in_source: int
    """Before `config.rows` chose among them."""


def load_mapped_rows(config: DataConfig) -> list[MappedRow]:
    """The rows that `config.rows` chooses, mapped; in the order of the source, whatever the range."""
    return load_rows(config).mapped


def load_rows(config: DataConfig, as_pairs: bool = False) -> LoadedRows:
    """The same, with what was found. `as_pairs`: rows are preference pairs."""
    is_folder = Path(config.source).expanduser().is_dir()
    if config.subset is not None and not is_hugging_face_name(config.source) and not is_folder:
        raise ValueError(f"`subset` {config.subset!r} is for Hugging Face data sets; {config.source!r} is none")
    reading = Reading(config.encoding, config.delimiter, config.max_unpacked_gib)
    read = read_source(config.source, config.subset, config.split, config.num_generated, config.split_seed, reading)
    return map_read_rows(config, read, as_pairs)


def map_read_rows(config: DataConfig, read: RowsRead, as_pairs: bool) -> LoadedRows:
    """Rows as they were read, of any format, mapped: an item's index is its place among the expanded rows."""
    try:
        rows = list(expand_rows(config.pairs, read.rows))
    except ValueError as error:
        raise ValueError(f"{config.source}, {error}") from error
    format = likely_format(rows[0]) if rows and config.pairs == PairsConfig() else None
    if format is not None and (as_pairs or format == "dialogues"):
        raise ValueError(
            f"{config.source}, {row_name(0)}: these look like rows of the format `{format}`: set data.pairs.format to "
            "it, or name the columns of a pair by data.prompt, data.pairs.chosen and data.pairs.rejected"
        )
    found = find_format(config, rows, as_pairs)
    mapped = map_rows(found.config, found.rows)
    try:
        chosen = select_rows(config.rows, [str(item.messages) for item in mapped], config.split_seed)
    except ValueError as error:
        raise ValueError(f"{config.source}: {error}") from error
    return LoadedRows([mapped[index] for index in np.sort(chosen)], found.config, found.words, read.notes, len(mapped))


def keep_answered(
    config: DataConfig, mapped: list[MappedRow], needs_demonstrations: bool, needs_references: bool
) -> list[MappedRow]:
    """Rows that have what is learned from or compared with; an error unless the config allows to leave others out."""
    if not needs_demonstrations and not needs_references:
        return mapped
    kept = [
        item
        for item in mapped
        if (item.response is not None or item.answer is not None if needs_demonstrations else item.references)
    ]
    if len(kept) == len(mapped):
        return mapped
    if needs_demonstrations:
        missing, keys = "no demonstration to learn from", "`response` (or `reference`)"
    else:
        missing, keys = "no reference answer, and a reward compares with it", "`reference`"
    if not config.skip_unanswered or not kept:
        places = {item.index for item in kept}
        first = next(item for item in mapped if item.index not in places)
        raise ValueError(
            f"{config.source}, {row_name(first.index)}: {missing}; so have {len(mapped) - len(kept)} of {len(mapped)} "
            f"rows (missing, NaN or empty). Set {keys} to a template over the columns, or skip_unanswered: true to "
            "leave such rows out"
        )
    return kept


def keep_short(
    config: DataConfig, mapped: Sequence[MappedRow], parts: Sequence[EncodedTexts], limit: int, what: str
) -> NDArray[np.bool_]:
    """Which rows are within the limit; an error unless the config allows to leave the others out."""
    lengths, is_huge = joint_lengths(parts, limit)
    kept: NDArray[np.bool_] = lengths <= limit
    if kept.all() or config.skip_too_long:
        return kept
    first = int(np.flatnonzero(~kept)[0])
    at_least = "at least " if is_huge[first] else ""
    raise ValueError(
        f"{config.source}, {row_name(mapped[first].index)}: the {what} has {at_least}{lengths[first]} tokens, "
        f"more than the {limit} that the context leaves for it; so have {np.count_nonzero(~kept)} of {len(kept)} rows "
        f"(longest {lengths.max()}). Raise the context length, or set skip_too_long: true to leave such rows out"
    )


def demonstration_of(config: DataConfig, item: MappedRow) -> str:
    """A row's demonstration; an error where it has none."""
    if item.response is None:
        raise ValueError(
            f"{config.source}, {row_name(item.index)}: no demonstration to learn from; set `response` (or "
            "`reference`) to a template over the columns"
        )
    return item.response
