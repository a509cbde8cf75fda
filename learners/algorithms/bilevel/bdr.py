"""BDR: offline data selection; weights of rows multiply their losses (arXiv 2511.21056; there BDS, in the code BDR).

Given trusted rows and rows to weigh; factor_i = w_i. Rows whose loss stays high because the trusted data pull the model
away from them lose weight. The public trainer parses `filter_rate` and ignores it here; `gate: true` asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import model_validator

from raylign.learners.algorithms.bilevel.two_levels import TwoLevelConfig, TwoLevelObjective
from raylign.learners.algorithms.facts import RunRows
from raylign.learners.examples.row_shares import gate


class BdrConfig(TwoLevelConfig):
    """Bilevel data selection."""

    name: Literal["bdr"] = "bdr"
    """Which algorithm this is."""
    gate: bool = False
    """Let the weights decide which rows pass (see filter_rate) instead of multiplying the losses."""

    @model_validator(mode="after")
    def _filter_needs_a_gate(self) -> Self:
        if self.filter_rate != type(self).model_fields["filter_rate"].default and not self.gate:
            raise ValueError(
                f"filter_rate is {self.filter_rate:g}: bdr does not filter; set gate: true, or leave it out"
            )
        return self

    @property
    def gates(self) -> bool:
        return self.gate

    def build_objective(self, max_staleness: int = 0, rows: RunRows | None = None) -> Bdr:
        assert rows is not None, "the curriculum tells what there is to weigh"
        return Bdr(self, rows)


class Bdr(TwoLevelObjective[BdrConfig]):
    """Implements `factors`."""

    def factors(self, weights: Sequence[float]) -> list[float]:
        return gate(weights, self.config.filter_rate) if self.config.gate else list(weights)
