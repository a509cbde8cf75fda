"""What the algorithms share that learn from rows of a data set: nothing is generated, or little beside them.

Given nothing; gives the attributes of `Algorithm` with the values that say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import BaseModel

from raylign.learners.algorithms.base import PlainAlgorithm
from raylign.learners.examples.example import Example
from raylign.learners.losses.proximal import Proximal
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


class RowAlgorithm(PlainAlgorithm):
    """Implements `Algorithm`, but for `loss` and the making of examples."""

    needs_rollouts = False
    needs_reference = False
    num_updates = 1
    min_group_size = 1
    proximal: Proximal = "recompute"
    needs_old_logps = False
    skips_zero_advantages = False
    entropy_has_gradient = False
    alarm_below = 0.0
    learns_from_rows = True

    def examples(self, groups: Sequence[Group]) -> list[Example]:
        raise ValueError(f"{type(self).__name__} learns from rows of the data, not from rollouts")
