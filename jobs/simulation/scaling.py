"""Engines that join and leave a simulated run, by the policy of the real one (`rollout/autoscale.py`).

Given the engines, what each step measured, and how one is started; keeps their number, and their seconds for shares.
"""

from __future__ import annotations

from collections.abc import Callable

from raylign.jobs.simulation.engine import SimulatedEngine
from raylign.rollout.autoscale import AutoscaleConfig, StepLoad, wanted_engines


class SimulatedScaling:
    """Between two changes: as many engines as at the start, where there is no policy."""

    def __init__(
        self, policy: AutoscaleConfig | None, engines: list[SimulatedEngine], start: Callable[[], SimulatedEngine]
    ) -> None:
        """`start`: adds another to `engines`, not alive yet."""
        self._policy, self._engines, self._start = policy, engines, start
        self._loads: list[StepLoad] = []
        self._engines_s, self._since_s = 0.0, 0.0
        self._starting: list[SimulatedEngine] = []
        self._ended_s = 0.0
        """When the last step did."""

    @property
    def num_engines(self) -> int:
        """Those that are there, on their way out too."""
        return sum(not engine.is_gone for engine in self._engines) - len(self._starting)

    def engines_s(self, now: float) -> float:
        """Sum over engines of the time that they were there."""
        self._engines_s += self.num_engines * (now - self._since_s)
        self._since_s = now
        return self._engines_s

    def started(self, engine: SimulatedEngine, now: float) -> None:
        """It serves; also one that was there before and had failed."""
        if engine in self._starting:
            self.engines_s(now)
            self._starting.remove(engine)

    def may_end(self, engine: SimulatedEngine, now: float) -> None:
        """It has fewer groups, or none, than before."""
        if engine.is_leaving and not engine.groups and not engine.is_gone:
            self.engines_s(now)
            engine.is_gone, engine.is_alive = True, False

    def after_step(self, now: float, began_s: float, log_fill: float) -> None:
        """`began_s`: when the learner had its groups."""
        passed_s, waited_s = now - self._ended_s, began_s - self._ended_s
        load = StepLoad(self.num_engines, waited_s / passed_s if passed_s else 0.0, log_fill)
        self._ended_s = now
        if (
            self._policy is None
            or self._starting
            or any(each.is_leaving and not each.is_gone for each in self._engines)
        ):
            return
        self._loads.append(load)
        if (wanted := wanted_engines(self._policy, self._loads, self.num_engines)) != self.num_engines:
            self._resize(wanted, now)

    def _resize(self, wanted: int, now: float) -> None:
        there = [engine for engine in self._engines if not engine.is_gone]
        for engine in there[wanted:]:
            engine.is_leaving = True
            self.may_end(engine, now)
        self._starting += [self._start() for _ in range(wanted - len(there))]
