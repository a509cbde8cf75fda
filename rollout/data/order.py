"""Which rows, and in which order.

Given the number of rows and seeds; gives row indexes. Pure functions: the same on every machine and in every process.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

IndexArray = NDArray[np.int64]

# What the random streams are for, mixed into their seeds so that equal seeds do not make them equal.
_SPLIT, _EPOCH = 1, 2

_BOUND = re.compile(r"(\d+(?:\.\d+)?)%|(\d+)")


def select_rows(rows: str, keys: Sequence[str], split_seed: int) -> IndexArray:
    """Indexes of a range `from:to` (numbers or percentages) of the rows in a fixed shuffled order.

    Rows with equal keys stand together and are never cut apart (a bound inside them moves up), so that no question
    is both trained on and tested on.
    """
    start, stop = parse_range(rows, len(keys))
    numbers: dict[str, int] = {}
    groups = np.array([numbers.setdefault(key, len(numbers)) for key in keys])
    places = np.random.Generator(np.random.PCG64([split_seed, _SPLIT])).permutation(len(numbers))[groups]
    order = np.argsort(places, kind="stable")
    ordered = places[order]
    start, stop = (
        int(np.searchsorted(ordered, ordered[bound - 1], "right")) if bound else 0 for bound in (start, stop)
    )
    if start >= stop:
        raise ValueError(f"rows {rows!r} leaves none of the {len(keys)} rows (rows with equal prompts stay together)")
    return order[start:stop]


@functools.lru_cache(maxsize=8)
def epoch_order(seed: int, epoch: int, num_rows: int) -> IndexArray:
    """The order of the rows in one epoch; read-only, since it is kept for the next call."""
    order = np.random.Generator(np.random.PCG64([seed, epoch, _EPOCH])).permutation(num_rows)
    order.setflags(write=False)
    return order


def parse_range(rows: str, num_rows: int) -> tuple[int, int]:
    """`0%:80%`, `80%:100%`, `0:500`, `500:` as start and stop; percentages are rounded down, the same at both ends."""
    bounds = check_range_syntax(rows)
    start = _bound(bounds[0] or "0", num_rows)
    stop = _bound(bounds[1] or "100%", num_rows)
    if stop > num_rows:
        raise ValueError(f"rows {rows!r} asks for {stop} rows, but there are only {num_rows}")
    if start >= stop:
        raise ValueError(f"rows {rows!r} leaves none of the {num_rows} rows ({start} to {stop})")
    return start, stop


def check_range_syntax(rows: str) -> list[str]:
    """The two bounds, as written."""
    bounds = [bound.strip() for bound in rows.split(":")]
    if len(bounds) != 2 or not all(not bound or _BOUND.fullmatch(bound) for bound in bounds):
        raise ValueError(f"rows {rows!r} is not a range; write `0%:80%`, `80%:100%`, `0:500` or `500:`")
    for bound in bounds:
        if bound.endswith("%") and Decimal(bound[:-1]) > 100:
            raise ValueError(f"rows {rows!r}: {bound} is more than 100%")
    return bounds


def _bound(bound: str, num_rows: int) -> int:
    if bound.endswith("%"):
        return int(Decimal(bound[:-1]) * num_rows / 100)
    return int(bound)
