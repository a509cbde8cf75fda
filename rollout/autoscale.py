"""How many engines a run should have, from how long the learner waited and how full the log was in its last steps.

Given the keys of `rollout.autoscale`, the loads of the steps so far, and the number of engines; gives the wanted
number. Pure: the train loop and the simulator of `raylign plan` both ask here.

    engines are too few    the learner waits for groups
    engines are too many   it does not, and the log is as full as the staleness bound lets it be

A learner that waits a share w of its step could train 1 / (1 - w) as much, so so many more engines join at once. How
many are too many cannot be measured (an engine with few sequences is as busy as one with many): one of four leaves at a
time, and a number that was too few is not gone back to for `remember_steps`, or it would go to and fro.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, Field, model_validator


class AutoscaleConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """Engines join and leave by themselves; needs `async.max_staleness` above 0."""

    min_engines: int = Field(1, ge=1)
    """Never fewer."""
    max_engines: int = Field(ge=1)
    """Never more."""
    grow_above: float = Field(0.2, gt=0, lt=1)
    """Share of a step that the learner waits for groups, above which engines join."""
    shrink_above: float = Field(0.5, gt=0, lt=1)
    """How full the log is when a step begins, as a share of the groups that the staleness bound allows, those that are
    being generated included; above it engines leave, if the learner waits less than half of `grow_above`."""
    patience_steps: int = Field(3, ge=1)
    """Steps in a row that must agree; they are counted anew after each change."""
    remember_steps: int = Field(100, ge=0)
    """Steps for which a number that was too few is not gone back to."""

    @model_validator(mode="after")
    def _check(self) -> AutoscaleConfig:
        if self.min_engines > self.max_engines:
            raise ValueError(f"min_engines is {self.min_engines}, more than max_engines = {self.max_engines}")
        return self


@dataclass(frozen=True)
class StepLoad:
    """Of one step."""

    num_engines: int
    learner_wait_share: float
    """Of the step, that the learner waited for groups."""
    log_fill: float
    """Groups that waited in the log when the step began, as a share of those that the bound allows."""

    @property
    def words(self) -> str:
        return f"the learner waits {self.learner_wait_share:.0%}, the log is {self.log_fill:.0%} full"


def wanted_engines(config: AutoscaleConfig, loads: Sequence[StepLoad], num_engines: int) -> int:
    """`loads`: oldest first; steps in which engines joined or left are left out."""
    patience, wanted = config.patience_steps, num_engines
    last = loads[-patience:]
    if len(last) == patience and all(load.num_engines == num_engines for load in last):
        if _were_too_few(config, last):
            wait = sum(load.learner_wait_share for load in last) / patience
            wanted = min(2 * num_engines, math.ceil(num_engines / max(1.0 - wait, 0.5)))
        elif _were_too_many(config, last):
            remembered = loads[-max(patience, config.remember_steps) :]
            parts = [remembered[end - patience : end] for end in range(patience, len(remembered) + 1)]
            too_few = max((part[-1].num_engines for part in parts if _were_too_few(config, part)), default=0)
            wanted = min(num_engines, max(num_engines - max(1, num_engines // 4), too_few + 1))
    return max(config.min_engines, min(config.max_engines, wanted))


def _were_too_few(config: AutoscaleConfig, loads: Sequence[StepLoad]) -> bool:
    is_steady = len({load.num_engines for load in loads}) == 1
    return is_steady and all(load.learner_wait_share > config.grow_above for load in loads)


def _were_too_many(config: AutoscaleConfig, loads: Sequence[StepLoad]) -> bool:
    seldom_waits = all(load.learner_wait_share <= config.grow_above / 2 for load in loads)
    return seldom_waits and sum(load.log_fill for load in loads) / len(loads) > config.shrink_above
