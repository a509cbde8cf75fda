"""How many engines a run should have, from who waited for whom in its last steps.

Given the keys of `rollout.autoscale`, the loads of the steps since the number last changed, and the number; gives the
wanted number. Pure: the train loop and the simulator of `raylign plan` both ask here.

    engines are too few    the learner waits for groups, and the engines have work all the time
    engines are too many   the engines wait for room inside the staleness bound, and the learner never waits

With n engines busy a share b of the time, b · n of them do the work; a learner that waits a share w of its step could
train 1 / (1 - w) as much. So one look gives the number, and the rest is caution: `patience_steps` steps must agree, a
change at most doubles or halves, and between the two thresholds nothing changes.
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
    shrink_above: float = Field(0.4, gt=0, lt=1)
    """Share of a step that engines have nothing to do, above which engines leave."""
    patience_steps: int = Field(3, ge=1)
    """Steps in a row that must agree; they are counted anew after each change."""

    @model_validator(mode="after")
    def _check(self) -> AutoscaleConfig:
        if self.min_engines > self.max_engines:
            raise ValueError(f"min_engines is {self.min_engines}, more than max_engines = {self.max_engines}")
        return self


@dataclass(frozen=True)
class StepLoad:
    """Of one step."""

    learner_wait_share: float
    """Of the step, that the learner waited for groups."""
    engine_idle_share: float
    """Of the step, that engines had nothing to do; mean over engines."""

    @property
    def words(self) -> str:
        return f"the learner waits {self.learner_wait_share:.0%}, engines {self.engine_idle_share:.0%}"


def wanted_engines(config: AutoscaleConfig, loads: Sequence[StepLoad], num_engines: int) -> int:
    """`loads`: oldest first, those since the last change."""
    wanted = num_engines
    last = loads[-config.patience_steps :]
    if len(last) == config.patience_steps:
        wait = sum(load.learner_wait_share for load in last) / len(last)
        idle = sum(load.engine_idle_share for load in last) / len(last)
        if all(_are_too_few(config, load) for load in last):
            wanted = min(2 * num_engines, math.ceil(num_engines / max(1.0 - wait, 0.5)))
        elif all(_are_too_many(config, load) for load in last):
            # as many as leave half of the tolerated idle share, so that the next look does not turn it around
            busy = num_engines * (1.0 - idle) / (1.0 - config.shrink_above / 2)
            wanted = max(math.ceil(num_engines / 2), math.ceil(busy))
    return max(config.min_engines, min(config.max_engines, wanted))


def _are_too_few(config: AutoscaleConfig, load: StepLoad) -> bool:
    return load.learner_wait_share > config.grow_above and load.engine_idle_share <= config.shrink_above


def _are_too_many(config: AutoscaleConfig, load: StepLoad) -> bool:
    return load.engine_idle_share > config.shrink_above and load.learner_wait_share <= config.grow_above
