"""Which row of the tables is meant by a command, an option or a few words.

Given words of an original; gives the row that is nearest to them, or none.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from itertools import pairwise

from raylign.jobs.originals.command_words import Option, OriginalCommand, take_apart
from raylign.jobs.originals.pages import Name, Row, all_rows

NUMBER = re.compile(r"-?[\d.]+(?:e-?\d+)?")


def find_rows(text: str, rows: Sequence[Row] | None = None) -> list[Row]:
    """Rows whose first column has all words of a text, for what is no command."""
    wanted = _plain(text).split()
    rows = all_rows() if rows is None else rows
    return [row for row in rows if wanted and all(word in _plain(row.original) for word in wanted)]


def _plain(text: str) -> str:
    return re.sub(r"[`\s]+", " ", text).strip().lower()


def command_row(typed: OriginalCommand, rows: Iterable[Row]) -> tuple[Row, OriginalCommand] | None:
    """The row whose example is nearest to what was typed."""
    best: tuple[float, Row, OriginalCommand] | None = None
    for row in rows:
        for words in row.commands if row.base is None else ():
            example = take_apart(words)
            if not example.program or example.program != typed.program:
                continue
            if typed.arguments[: len(example.arguments)] != example.arguments:
                continue
            score = _likeness(typed, example)
            if best is None or score > best[0]:
                best = (score, row, example)
    return None if best is None else best[1:]


def _likeness(typed: OriginalCommand, example: OriginalCommand) -> float:
    values = {option.dashes + option.word: option.value for option in typed.options}
    score = 2.0 * len(example.arguments)
    for option in example.options:
        word = option.dashes + option.word  # `-p` and `--p` are two options
        if word not in values:
            score -= 1
        elif option.value is not None and NUMBER.fullmatch(option.value):
            continue  # any number will do
        else:
            score += 4 if values[word] == option.value else -1
    return score


def page_of(command: str, known: Sequence[str], options: Sequence[Option], rows: Sequence[Row]) -> str | None:
    """The page that has most of the options; of equals the one that the recipe belongs to, then the first."""
    recipes = {word for before, word in pairwise(known) if before == "--config"}
    best: tuple[int, int, int] | None = None
    page = None
    for candidate in dict.fromkeys(row.page for row in rows):
        matched = [row for option in options if (row := key_row(option, candidate, command, rows)) is not None]
        mentioned = {word for row in rows if row.page == candidate for word in shlex.split(row.command or "")}
        fits = sum((row.base or "").startswith(f"raylign {command}") for row in matched)
        score = (len(matched), len(recipes & mentioned), fits)
        if matched and (best is None or score > best):
            best, page = score, candidate
    return page


def key_row(option: Option, page: str, command: str, rows: Sequence[Row], config: str = "") -> Row | None:
    """The row of an option: the one of its very value, for the same command and recipe where there are several."""

    def fitness(row: Row) -> tuple[bool, ...] | None:
        named = [name for name in names_of(row) if is_meant(name, option)]
        exact = any(name.value is not None and is_same(name.value, option.value) for name in named)
        if not named or not (exact or any(name.value is None for name in named)):
            return None
        base = row.base or f"raylign {command}"
        has_dashes = any(name.dashes and name.dashes == option.dashes for name in named)
        return exact, base.startswith(f"raylign {command}"), has_dashes, bool(config) and f"--config {config}" in base

    candidates = [(fit, row) for row in rows if row.page == page and (fit := fitness(row)) is not None]
    return max(candidates, key=lambda pair: pair[0])[1] if candidates else None


def names_of(row: Row) -> list[Name]:
    """Also of an option that stands alone in a table of commands (`--selector_mode BMO`)."""
    if row.base is None and not row.original.startswith("`-"):
        return []
    return row.names


def is_same(named: str, typed: str | None) -> bool:
    """A list in brackets is meant as a whole: `[hh,shp]` is not about `[hh]`."""
    if typed is None:
        return False
    if typed.startswith("["):
        return _in_list(named) == _in_list(typed)
    return named.strip("[]") in (typed, *typed.split(","))


def _in_list(text: str) -> set[str]:
    return {item.strip(" '\"") for item in text.strip("[]").split(",")}


def is_meant(name: Name, option: Option) -> bool:
    return name.word == option.word and (not name.dashes or not option.dashes or name.dashes == option.dashes)
