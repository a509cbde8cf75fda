"""Which rows a model is trained on: those that it solves sometimes, the rarely solved first.

Given for each row how many of L answers were right, gives the ids of the kept rows in order, how the pass counts are
spread, and a shortfall where fewer rows qualify than were asked for. Pure: no model, no file.

We depart from the paper's order in the default (`exclude`), as its code does: rows that were never solved are often
mislabelled, and rows that are always solved teach nothing. `demote` is the paper's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, model_validator

UnsolvedPolicy = Literal["exclude", "demote", "promote"]
NEVER_ZERO = 0.001
"""What `prob_sampling` adds to 1 − score, so that no row has the probability 0."""
WIDEST_BAR = 40


class SelectionConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """Which of the scored rows are kept, and in which order."""

    unsolved_policy: UnsolvedPolicy = "exclude"
    """Rows that no answer solved: exclude (as those that every answer solved), demote (both last), promote (first)."""
    easy_to_hard: bool = False
    """Order the rows that are solved sometimes from the easiest to the hardest, and keep the easiest."""
    prob_sampling: bool = False
    """Draw rows with replacement, with a probability that grows with 1 − score, in place of the first ones."""
    fill: bool = False
    """With `exclude`: where too few rows are solved sometimes, add those never solved, then those always solved."""

    @model_validator(mode="after")
    def _check_one_order(self) -> Self:
        if self.easy_to_hard and self.prob_sampling:
            raise ValueError("easy_to_hard and prob_sampling are two orders: set one of them")
        if self.fill and self.unsolved_policy != "exclude":
            raise ValueError(
                f"fill adds rows that `exclude` leaves out, and unsolved_policy is {self.unsolved_policy!r}, which "
                "leaves out none: set one of them"
            )
        if self.fill and self.prob_sampling:
            raise ValueError("prob_sampling draws as many rows as are asked for, so fill has nothing to add: unset it")
        return self


@dataclass(frozen=True)
class ScoredRow:
    """A row and its pass count: `num_right` of `num_answers` (the paper's k of L)."""

    row_id: str
    num_right: int
    num_answers: int

    def __post_init__(self) -> None:
        if not 0 <= self.num_right <= self.num_answers or self.num_answers < 1:
            raise ValueError(
                f"row {self.row_id}: {self.num_right} right of {self.num_answers} answers is no pass count"
            )

    @property
    def is_learnable(self) -> bool:
        """Solved sometimes."""
        return 0 < self.num_right < self.num_answers

    @property
    def score(self) -> float:
        """Equation 7 of the paper: k/L, and 1 where k = 0."""
        return self.num_right / self.num_answers if self.num_right else 1.0


@dataclass(frozen=True)
class Selection:
    """The rows that are kept.

    Selection(row_ids=("s3", "s7"), num_wanted=4, num_learnable=2, counts={0: 1, 1: 2, 8: 1})
    """

    row_ids: tuple[str, ...]
    """In order; with `prob_sampling` an id may be there several times."""
    num_wanted: int
    num_learnable: int
    """Rows that are solved sometimes, kept or not."""
    counts: dict[int, int]
    """How many rows have which pass count."""

    @property
    def shortfall(self) -> str | None:
        """A sentence where fewer rows are kept than were asked for."""
        missing = self.num_wanted - len(self.row_ids)
        if missing <= 0:
            return None
        return (
            f"{len(self.row_ids)} rows are kept of the {self.num_wanted} that were asked for: "
            f"{self.num_learnable} of {sum(self.counts.values())} are solved sometimes; fill adds others, "
            "more generated rows add better ones"
        )


class NoRowSelected(ValueError):
    """No row qualifies; the message holds the histogram of pass counts."""


def count_passes(rows: Iterable[ScoredRow]) -> dict[int, int]:
    """How many rows have which pass count, ascending."""
    return dict(sorted(Counter(row.num_right for row in rows).items()))


def histogram(counts: dict[int, int], num_answers: int) -> str:
    """One line for each pass count that occurs: `k = 3 of 64: ████ 12 rows`."""
    largest = max(counts.values(), default=1)
    return "\n".join(
        f"k = {count:>{len(str(num_answers))}} of {num_answers}: "
        f"{'█' * max(1, round(WIDEST_BAR * num_rows / largest))} {num_rows} row{'s' * (num_rows != 1)}"
        for count, num_rows in sorted(counts.items())
    )


def select(rows: Sequence[ScoredRow], num_wanted: int, config: SelectionConfig, seed: int = 0) -> Selection:
    """The rows to train on; NoRowSelected where there is none. Rows of equal score keep the order they came in."""
    if len({row.num_answers for row in rows}) > 1:
        numbers = sorted({row.num_answers for row in rows})
        raise ValueError(f"rows were scored with different numbers of answers ({numbers}): score them alike")
    ordered = _ordered(rows, config)
    counts = count_passes(rows)
    if not ordered:
        shown = histogram(counts, rows[0].num_answers) if rows else "there are no scored rows"
        raise NoRowSelected(
            f"no row is solved sometimes, so there is nothing to learn from:\n{shown}\n"
            "all at 0: the base model lacks the answer's form, or labels are wrong; all at the top: the task is too "
            "easy; unsolved_policy demote or promote, or fill, would train on them all the same"
        )
    kept = _drawn(ordered, num_wanted, config, seed) if config.prob_sampling else ordered[:num_wanted]
    num_learnable = sum(row.is_learnable for row in rows)
    return Selection(tuple(row.row_id for row in kept), num_wanted, num_learnable, counts)


def _ordered(rows: Sequence[ScoredRow], config: SelectionConfig) -> list[ScoredRow]:
    """All rows that qualify, best first. Only the order of learnable rows depends on `easy_to_hard`."""
    learnable = sorted(
        (row for row in rows if row.is_learnable), key=lambda row: row.score, reverse=config.easy_to_hard
    )
    never = [row for row in rows if row.num_right == 0]
    always = [row for row in rows if row.num_right == row.num_answers]
    if config.unsolved_policy == "promote":
        return never + learnable + always
    if config.unsolved_policy == "demote":  # both have the score 1, so they stay in the order of the rows
        return learnable + [row for row in rows if not row.is_learnable]
    return learnable + never + always if config.fill else learnable


def probabilities(rows: Sequence[ScoredRow], config: SelectionConfig) -> list[float]:
    """Of each row under `prob_sampling`; a promoted row that was never solved counts as score 0."""
    promotes = config.unsolved_policy == "promote"
    scores = [0.0 if promotes and row.num_right == 0 else row.score for row in rows]
    weights = [1.0 - score + NEVER_ZERO for score in scores]
    return [weight / sum(weights) for weight in weights]


def _drawn(rows: list[ScoredRow], num_wanted: int, config: SelectionConfig, seed: int) -> list[ScoredRow]:
    places = np.random.default_rng(seed).choice(len(rows), num_wanted, p=probabilities(rows, config))
    return [rows[place] for place in places]
