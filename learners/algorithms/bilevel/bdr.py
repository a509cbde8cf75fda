"""BDR: offline data selection; weights of rows multiply their losses (arXiv 2511.21056; there BDS, in the code BDR).

Given trusted rows and rows to weigh; factor_i = w_i. Rows whose loss stays high because the trusted data pull the model
away from them lose weight. The public trainer parses `filter_rate` and ignores it here; `gate: true` asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from raylign.learners.algorithms.bilevel.two_levels import TwoLevelConfig, TwoLevelObjective
from raylign.learners.algorithms.facts import RunRows
from raylign.learners.examples.row_shares import gate

DEFAULT_FILTER_RATE = 0.1
"""Of a gate that was asked for without it."""


class BdrConfig(TwoLevelConfig):
    """Bilevel data selection."""

    name: Literal["bdr"] = "bdr"
    """Which algorithm this is."""
    gate: bool = False
    """Let the weights decide which rows pass (see filter_rate) instead of multiplying the losses."""

    filter_rate: float | None = Field(None, ge=0, le=1)
    """Share of a batch's rows that the gate leaves out of the model's loss: those of the smallest weights. Needs
    `gate: true`; empty: 0.1 with a gate, nothing without."""

    @model_validator(mode="after")
    def _filter_needs_a_gate(self) -> Self:
        if self.filter_rate is not None and not self.gate:
            raise ValueError(
                f"filter_rate is {self.filter_rate:g}: bdr does not filter; set gate: true, or leave it out"
            )
        return self

    @property
    def gated_share(self) -> float | None:
        if not self.gate:
            return None
        return DEFAULT_FILTER_RATE if self.filter_rate is None else self.filter_rate

    def build_objective(self, max_staleness: int = 0, rows: RunRows | None = None) -> Bdr:
        assert rows is not None, "the curriculum tells what there is to weigh"
        return Bdr(self, rows)


class Bdr(TwoLevelObjective[BdrConfig]):
    """Implements `factors`."""

    def factors(self, weights: Sequence[float]) -> list[float]:
        share = self.config.gated_share
        return list(weights) if share is None else gate(weights, share)
