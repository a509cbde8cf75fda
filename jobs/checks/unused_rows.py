"""Rows of a source that no section of a run reads: a recipe's `rows` that was meant for another file.

Given what each section read; gives a sentence for each source of which rows are left over. Training and held-out rows
that share a file together read all of it, and nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raylign.rollout.data.config import DataConfig
from raylign.rollout.data.order import parse_range


@dataclass(frozen=True)
class SectionRead:
    """One section of the config, read."""

    key: str
    data: DataConfig
    num_in_source: int


def unused_rows(read: Sequence[SectionRead]) -> list[str]:
    """One sentence a source."""
    by_source: dict[tuple[object, ...], list[SectionRead]] = {}
    for section in read:
        data = section.data
        by_source.setdefault((data.source, data.subset, data.split, data.split_seed), []).append(section)
    return [words for sections in by_source.values() if (words := _words(sections))]


def _words(sections: Sequence[SectionRead]) -> str:
    total = sections[0].num_in_source
    ranges = sorted(parse_range(section.data.rows, total) for section in sections)
    num_used, reached = 0, 0
    for start, stop in ranges:
        num_used += max(0, stop - max(start, reached))
        reached = max(reached, stop)
    if num_used >= total:
        return ""
    keys = ", ".join(f"{section.key}.rows {section.data.rows}" for section in sections)
    return f"{num_used:,} of {total:,} rows of {sections[0].data.source} are used: {keys}"
