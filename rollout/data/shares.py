"""Shares of several data sources in one run.

Given what the config says of each source, and their rows; gives whole numbers in the proportion of the shares, or
what is wrong with them. Imports no heavy library, as the config does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction


def parts_of(num_rows: Sequence[int], shares: Sequence[float | None]) -> list[int]:
    """The shares of all sources as whole numbers, exactly as they are written: 0.1 is a tenth."""
    given = [Fraction(str(share)) for share in shares if share is not None]
    if not given:
        return list(num_rows)
    assert len(given) == len(shares) == len(num_rows) - 1, f"{shares} of {len(num_rows)} sources"
    fractions = [1 - sum(given), *given]
    denominator = math.lcm(*(fraction.denominator for fraction in fractions))
    return [int(fraction * denominator) for fraction in fractions]


def shares_problem(shares: Sequence[float | None]) -> str | None:
    """What is wrong with the shares of the sources beside the first."""
    given = [Fraction(str(share)) for share in shares if share is not None]
    if not given:
        return None
    if len(given) < len(shares):
        missing = [number for number, share in enumerate(shares) if share is None]
        return (
            f"more_data[{missing[0]}].share is empty and others are given: give every source beside `data` a share, or "
            "none (then each has the part of its rows)"
        )
    if (total := sum(given)) >= 1:
        return (
            f"more_data: the shares add up to {float(total):g}, and `data` has what they leave of 1: nothing; lower "
            "them, or make one of these sources `data`"
        )
    return None
