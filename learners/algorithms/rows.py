"""What the algorithms share that learn from rows of a data set: nothing is generated, or little beside them.

Given nothing; gives the attributes of `Algorithm` with the values that say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import BaseModel

from raylign.learners.algorithms.base import DynamicSampling, Example, Proximal, Routing
from raylign.rollout.sample import Group

RowKind = Literal["demonstrations", "pairs", "two_levels"]
"""demonstrations: prompt, response; pairs: prompt, chosen, rejected; two_levels: rows to weigh, and trusted ones."""


class RowConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """What a run asks of the config of such an algorithm."""

    row_kind: ClassVar[RowKind]

    @property
    def min_group_size(self) -> int:
        """Nothing is compared within a group."""
        return 1

    @property
    def needs_rollouts(self) -> bool:
        """Whether engines generate what is trained on."""
        return False

    @property
    def answers_rows(self) -> bool:
        """Whether engines answer questions of the rows beside the training."""
        return False

    def staleness_problem(self, max_staleness: int) -> str | None:
        """None: rows were sampled from no weights, so no bound concerns them."""
        return None


class RowAlgorithm:
    """Implements `Algorithm`, but for `loss` and the making of examples."""

    needs_rollouts = False
    needs_reference = False
    num_updates = 1
    min_group_size = 1
    dynamic_sampling: DynamicSampling | None = None
    proximal: Proximal = "recompute"
    completes_batch = False
    needs_old_logps = False
    skips_zero_advantages = False
    entropy_has_gradient = False
    alarm_below = 0.0
    model_kind: Literal["policy", "scorer"] = "policy"
    learns_from_rows = True
    routing: Routing | None = None

    def open(self, seed: int, rows_per_step: int) -> None:
        pass

    def accepts(self, group: Group) -> bool:
        return True

    def examples(self, groups: Sequence[Group]) -> list[Example]:
        raise ValueError(f"{type(self).__name__} learns from rows of the data, not from rollouts")

    def complete(self, examples: list[Example]) -> list[Example]:
        return examples

    def after_step(self, examples: Sequence[Example], losses: Sequence[float]) -> dict[str, float]:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        pass
