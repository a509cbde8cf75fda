"""Which rows are kept by their scores: the easy, the medium, the hard, or random ones (BLEUBERI's data).

Given the scores of all rows in the order of the pool; gives positions, in the order in which the rows are written. All
sorts are stable, so ties keep the order of the pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

SelectionMode = Literal["random", "easy", "medium", "hard"]


def select_by_score(scores: Sequence[float], mode: SelectionMode, num_examples: int | None) -> list[int]:
    """Positions of the kept rows by falling score; all of them where no number is given, or more than there are."""
    falling = sorted(range(len(scores)), key=lambda place: -scores[place])
    if num_examples is None or num_examples >= len(scores):
        return falling
    if mode == "easy":
        return falling[:num_examples]
    rising = sorted(range(len(scores)), key=scores.__getitem__)
    start = (len(scores) - num_examples) // 2 if mode == "medium" else 0
    return sorted(rising[start : start + num_examples], key=lambda place: -scores[place])


def select_at_random(num_rows: int, num_examples: int, seed: int) -> list[int]:
    """Positions drawn by NumPy's old generator, as the published code draws them; all rows where fewer are there."""
    if num_examples >= num_rows:
        return list(range(num_rows))
    chosen: list[int] = np.random.RandomState(seed).choice(num_rows, num_examples, replace=False).tolist()
    return chosen
