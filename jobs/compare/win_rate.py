"""Win rates: how often one model's answer beats another's, ties and failures apart.

Given a score of each side for each prompt (None where there is none); gives counts, shares and their intervals.

Both readings of a tie are given: `win_rate` counts it half, which is ½ for two equal models, and `win_share` counts it
as lost, as some published numbers do. A prompt that could not be judged is neither: it is left out and counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raylign.jobs.run.statistics import clustered_interval, wilson_interval


@dataclass(frozen=True)
class WinRate:
    """Over the prompts of one comparison, seen from the new model."""

    num_wins: int
    num_ties: int
    num_losses: int
    num_failed: int
    """Prompts without a score on either side: in no share below."""

    @property
    def num_compared(self) -> int:
        """Prompts with a winner or a tie."""
        return self.num_wins + self.num_ties + self.num_losses

    def row(self) -> dict[str, Any]:
        """As plain values; shares are None where nothing could be compared."""
        counts = {
            "num_wins": self.num_wins,
            "num_ties": self.num_ties,
            "num_losses": self.num_losses,
            "num_failed": self.num_failed,
        }
        if not self.num_compared:
            return counts | dict.fromkeys(("win_share", "tie_share", "loss_share", "win_rate"))
        shares: dict[str, Any] = {}
        for name, count in (("win", self.num_wins), ("tie", self.num_ties), ("loss", self.num_losses)):
            share = count / self.num_compared
            low, high = wilson_interval(share, self.num_compared)
            shares |= {f"{name}_share": share, f"{name}_share_low": low, f"{name}_share_high": high}
        values = [1.0] * self.num_wins + [0.5] * self.num_ties + [0.0] * self.num_losses
        mean, low, high = clustered_interval(values, num_samples_per_prompt=2)  # a half is the mean of two
        return counts | shares | {"win_rate": mean, "win_rate_low": low, "win_rate_high": high}


def win_rate(new: Sequence[float | None], reference: Sequence[float | None]) -> WinRate:
    """Equal scores are a tie; the same prompts in the same order on both sides."""
    if len(new) != len(reference):
        raise ValueError(f"{len(new)} scores of the new model, {len(reference)} of the reference")
    outcomes = [winner(*scores) for scores in zip(new, reference, strict=True)]
    return WinRate(*(outcomes.count(name) for name in ("new", "tie", "reference", None)))


def winner(new: float | None, reference: float | None) -> str | None:
    """`new`, `tie` or `reference`; None where a score is missing."""
    if new is None or reference is None or not (math.isfinite(new) and math.isfinite(reference)):
        return None
    return "tie" if new == reference else "new" if new > reference else "reference"
