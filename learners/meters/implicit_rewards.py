"""The reward that a policy implies: how well it tells the better answer of a pair from the worse.

Given summed log-probs of chosen and rejected answers under policy and reference; gives accuracy and margin of
r(x, y) = β·[log π(y|x) − log π₀(y|x)] (DPO, arXiv 2305.18290 section 4). Margins of different β are not comparable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ImplicitRewards:
    """Over the pairs of one evaluation."""

    accuracy: float
    """Share of pairs whose margin is above 0; a margin of exactly 0 is no success."""
    mean_margin: float
    """Mean of r(chosen) − r(rejected)."""
    margins: tuple[float, ...]
    """β·h of each pair."""


def implicit_rewards(
    beta: float,
    chosen_logps: Sequence[float],
    rejected_logps: Sequence[float],
    reference_chosen_logps: Sequence[float],
    reference_rejected_logps: Sequence[float],
) -> ImplicitRewards:
    """Each sequence holds one number for each pair: log-probs summed over the answer, end token included."""
    if beta <= 0:
        raise ValueError(f"beta is {beta}: it must be above 0")
    columns = (chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    counts = [len(column) for column in columns]
    if len(set(counts)) > 1 or not counts[0]:
        raise ValueError(f"implicit rewards need equally many log-probs of every kind, at least one; got {counts}")
    margins = tuple(
        beta * ((chosen - reference_chosen) - (rejected - reference_rejected))
        for chosen, rejected, reference_chosen, reference_rejected in zip(*columns, strict=True)
    )
    if bad := [number for number, margin in enumerate(margins) if not math.isfinite(margin)]:
        raise ValueError(f"pair {bad[0]}: its margin is {margins[bad[0]]}; a log-prob is not finite")
    accuracy = sum(margin > 0 for margin in margins) / len(margins)
    return ImplicitRewards(accuracy, math.fsum(margins) / len(margins), margins)
