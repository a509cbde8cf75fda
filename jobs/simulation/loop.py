"""The asynchronous loop as a discrete-event model: engines, log, learner, weight updates, failures.

Given a `Setting`; gives a `Trace` of what every step took and trained. Admission and the age of tokens are decided by
`rollout/staleness.py`, as in the real loop.

    event                 what follows
    a sequence ends       its group may be complete, and goes to the end of the log
    enough groups wait    the learner trains the next step
    a step is trained     once the last update has arrived, the learner exports its weights, then trains on
    weights are exported  engines stand still for the update, then go on; more groups may start
    a role fails          its groups start again elsewhere; the learner does its steps since the checkpoint again
"""

from __future__ import annotations

import gc
import heapq
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from raylign.jobs.simulation.engine import SimulatedEngine, SimulatedGroup
from raylign.jobs.simulation.rates import Setting
from raylign.jobs.simulation.scaling import SimulatedScaling
from raylign.rollout.staleness import StalenessBound, too_old

BLOCK = 256
"""Groups whose lengths are drawn at once."""


@dataclass(frozen=True)
class TracedStep:
    """One step, and sums over all time at its end."""

    start_s: float
    """When its training began."""
    end_s: float
    """When its weights were exported."""
    train_s: float
    tokens_by_staleness: dict[int, int]
    num_masked: int
    learner_busy_s: float
    """Sum over the steps so far of training and exporting."""
    engines_busy_s: float
    """Sum over engines."""
    engines_s: float
    """Sum over engines of the time that they were there."""
    num_engines: int
    """That are there."""
    num_generated: float
    """Tokens, those lost by failures left out."""

    @property
    def num_tokens(self) -> int:
        return sum(self.tokens_by_staleness.values())


@dataclass(frozen=True)
class _Training:
    """The step that the learner has taken up."""

    start_s: float
    train_s: float
    tokens_by_staleness: dict[int, int]
    num_masked: int
    log_fill: float
    """When it began: groups in the log, as a share of those that the bound allows."""


@dataclass
class Trace:
    """What happened."""

    setting: Setting
    steps: list[TracedStep] = field(default_factory=list)
    wall_s: float = 0.0
    """Until the engines hold the last weights."""
    num_lost_tokens: float = 0.0
    num_failures: int = 0


def run_simulation(setting: Setting) -> Trace:
    """The whole run."""
    was_enabled = gc.isenabled()
    gc.disable()  # millions of small objects and no cycle: looking for some takes up to half of the time
    try:
        return _Loop(setting).run()
    finally:
        if was_enabled:
            gc.enable()


class _Loop:
    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._trace = Trace(setting)
        self._bound = StalenessBound(0 if setting.takes_turns else setting.max_staleness, setting.groups_per_step)
        table = setting.decode.table(setting.max_num_seqs)
        self._table = table
        self._engines = [SimulatedEngine(number, setting.max_num_seqs, table) for number in range(setting.num_engines)]
        policy = setting.autoscale if self._bound.max_staleness else None
        self._scaling = SimulatedScaling(policy, self._engines, self._start_engine)
        self._loads = [(0, number) for number in range(setting.num_engines)]
        """Heap of (groups, engine); an entry that is no longer true is dropped when it comes up."""
        self._lengths = _GroupLengths(setting)
        self._failure_random = np.random.default_rng((setting.seed, 2))
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._num_events = 0

        self._log: list[SimulatedGroup] = []
        self._num_running = 0
        self._next_ordinal = 0
        self._again = 0
        """Lost groups that wait to be issued again."""
        self._version = 0
        """What all engines hold."""
        self._step = 0
        """The step that is trained now, or next."""
        self._training: _Training | None = None
        self._learner_is_away = False
        self._learner_stamp = 0
        self._learner_busy_s = 0.0
        self._arriving: int | None = None
        """The version that is on its way to the engines."""
        self._export_waits = False
        self._is_pausing = False
        self._num_updates = 0

    def run(self) -> Trace:
        if math.isfinite(self._setting.failures.engine_mean_s):
            for engine in self._engines:
                self._plan_engine_failure(engine)
        if math.isfinite(self._setting.failures.learner_mean_s):
            self._plan_learner_failure()
        self._admit()
        while self._version < self._setting.num_steps:
            time_s, _, action = heapq.heappop(self._events)
            self._now = time_s
            action()
        self._trace.wall_s = self._now
        return self._trace

    def _at(self, time_s: float, action: Callable[[], None]) -> None:
        self._num_events += 1
        heapq.heappush(self._events, (time_s, self._num_events, action))

    # ---- groups ----------------------------------------------------------------------------------------

    def _admit(self) -> None:
        count = self._bound.num_admissible(self._version, len(self._log), self._num_running)
        left = self._setting.num_steps * self._setting.groups_per_step - len(self._log) - self._num_running
        touched: set[int] = set()
        for _ in range(min(count, left)):
            engine = self._least_loaded()
            if engine is None:
                break
            engine.advance(self._now)
            is_again = self._again > 0
            self._again -= is_again
            engine.add(self._next_ordinal, SimulatedGroup(self._lengths.next(is_again), engine.number))
            self._next_ordinal += 1
            self._num_running += 1
            heapq.heappush(self._loads, (len(engine.groups), engine.number))
            touched.add(engine.number)
        for number in sorted(touched):
            self._expect_end(self._engines[number])

    def _least_loaded(self) -> SimulatedEngine | None:
        while self._loads:
            load, number = heapq.heappop(self._loads)
            engine = self._engines[number]
            if engine.is_alive and not engine.is_leaving and len(engine.groups) == load:
                return engine
        return None

    def _expect_end(self, engine: SimulatedEngine) -> None:
        """The end of the next sequence, in place of what was expected before."""
        engine.stamp += 1
        stamp, end_s = engine.stamp, engine.next_end_s()
        if end_s is not None:
            self._at(end_s, lambda: self._on_end(engine, stamp))

    def _on_end(self, engine: SimulatedEngine, stamp: int) -> None:
        if engine.stamp != stamp:
            return
        engine.advance(self._now)
        for _, group in engine.take_ended():
            self._log.append(group)
            self._num_running -= 1
            heapq.heappush(self._loads, (len(engine.groups), engine.number))
        self._scaling.may_end(engine, self._now)
        self._expect_end(engine)
        self._try_train()
        self._try_update()

    # ---- the learner -----------------------------------------------------------------------------------

    def _try_train(self) -> None:
        groups_per_step, step = self._setting.groups_per_step, self._step
        if self._training is not None or self._learner_is_away or step >= self._setting.num_steps:
            return
        if len(self._log) < (step + 1) * groups_per_step:
            return
        groups = self._log[step * groups_per_step : (step + 1) * groups_per_step]
        ages, num_masked = self._ages(groups)
        train_s = sum(ages.values()) / self._setting.learner_tokens_per_s + self._setting.learner_fixed_s
        log_fill = (len(self._log) / groups_per_step - step) / (self._bound.max_staleness + 1)
        self._training = _Training(self._now, train_s, ages, num_masked, log_fill)
        switch_s = self._setting.switch_s if self._setting.takes_turns else 0.0
        self._after(switch_s + train_s, self._on_trained)

    def _ages(self, groups: Iterable[SimulatedGroup]) -> tuple[dict[int, int], int]:
        """Tokens by staleness, and how many of them may not be trained."""
        versions = np.array([version for group in groups for version in group.tokens_by_version], np.int32)
        tokens = np.array([count for group in groups for count in group.tokens_by_version.values()], np.int64)
        masked = int(tokens[too_old(versions, self._step, self._bound.max_staleness)].sum())
        counts = np.bincount(self._step - versions, weights=tokens)
        return {age: int(count) for age, count in enumerate(counts) if count}, masked

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        """The learner's next event; a failure in between makes it void."""
        stamp = self._learner_stamp
        self._at(self._now + seconds, lambda: action() if self._learner_stamp == stamp else None)

    def _on_trained(self) -> None:
        if self._arriving is not None:
            self._export_waits = True
            return
        self._export_waits = False
        self._after(self._setting.export_s, self._on_exported)

    def _on_exported(self) -> None:
        training, self._training = self._training, None
        assert training is not None
        self._learner_busy_s += training.train_s + self._setting.export_s
        for engine in self._engines:
            engine.advance(self._now)
        self._trace.steps.append(
            TracedStep(
                training.start_s,
                self._now,
                training.train_s,
                training.tokens_by_staleness,
                training.num_masked,
                self._learner_busy_s,
                sum(engine.busy_s for engine in self._engines),
                self._scaling.engines_s(self._now),
                self._scaling.num_engines,
                sum(engine.num_tokens for engine in self._engines) - self._trace.num_lost_tokens,
            )
        )
        self._scaling.after_step(self._now, training.start_s, training.log_fill)
        self._step += 1
        self._arriving = self._step
        if not self._setting.in_flight:
            for engine in self._engines:
                engine.is_draining = True
        self._try_update()
        self._try_train()

    # ---- weights ---------------------------------------------------------------------------------------

    def _try_update(self) -> None:
        if self._arriving is None or self._is_pausing:
            return
        if not self._setting.in_flight and any(engine.num_running for engine in self._engines):
            return
        self._is_pausing = True
        self._num_updates += 1
        for engine in self._engines:
            engine.advance(self._now)
            engine.is_paused = True
            engine.stamp += 1
        self._at(self._now + self._setting.sync_s, self._on_arrived)

    def _on_arrived(self) -> None:
        assert self._arriving is not None
        self._version, self._arriving, self._is_pausing = self._arriving, None, False
        for engine in self._engines:
            engine.advance(self._now)
            if engine.is_alive:
                recompute_s = engine.take_weights(self._version) / self._setting.recompute_tokens_per_s
                self._resume_after(engine, recompute_s)
        self._admit()
        if self._export_waits:
            self._on_trained()
        self._try_train()

    def _resume_after(self, engine: SimulatedEngine, seconds: float) -> None:
        seen = (engine.num_failures, self._num_updates)
        if seconds == 0:
            self._on_resume(engine, seen)
        else:
            self._at(self._now + seconds, lambda: self._on_resume(engine, seen))

    def _on_resume(self, engine: SimulatedEngine, seen: tuple[int, int]) -> None:
        if seen == (engine.num_failures, self._num_updates):  # neither failed nor in the next update
            engine.advance(self._now)
            engine.resume()
            self._expect_end(engine)

    # ---- failures --------------------------------------------------------------------------------------

    def _plan_engine_failure(self, engine: SimulatedEngine) -> None:
        wait_s = float(self._failure_random.exponential(self._setting.failures.engine_mean_s))
        self._at(self._now + wait_s, lambda: self._on_engine_failure(engine))

    def _plan_learner_failure(self) -> None:
        wait_s = float(self._failure_random.exponential(self._setting.failures.learner_mean_s))
        self._at(self._now + wait_s, self._on_learner_failure)

    def _on_engine_failure(self, engine: SimulatedEngine) -> None:
        self._trace.num_failures += 1
        if self._setting.failures.restarts == "job":
            self._fail_job()
        elif engine.is_alive:
            self._fail_engine(engine, self._setting.failures.engine_restart_s)
        self._plan_engine_failure(engine)
        self._admit()
        self._try_update()

    def _on_learner_failure(self) -> None:
        self._trace.num_failures += 1
        if self._setting.failures.restarts == "job":
            self._fail_job()
        else:
            self._fail_learner(self._setting.failures.learner_restart_s)
        self._plan_learner_failure()

    def _fail_job(self) -> None:
        restart_s = max(self._setting.failures.engine_restart_s, self._setting.failures.learner_restart_s)
        for engine in self._engines:
            if not engine.is_gone:
                self._fail_engine(engine, restart_s)
        self._fail_learner(restart_s)

    def _fail_engine(self, engine: SimulatedEngine, restart_s: float) -> None:
        engine.advance(self._now)
        ordinals, num_tokens = engine.fail()
        engine.stamp += 1
        self._num_running -= len(ordinals)
        self._again += len(ordinals)
        self._trace.num_lost_tokens += num_tokens
        self._scaling.may_end(engine, self._now)
        count = engine.num_failures
        self._at(self._now + restart_s, lambda: self._on_engine_restarted(engine, count))

    def _on_engine_restarted(self, engine: SimulatedEngine, num_failures: int) -> None:
        if engine.num_failures != num_failures or engine.is_gone:
            return  # it failed again meanwhile, and comes back later
        self._scaling.started(engine, self._now)
        engine.advance(self._now)
        engine.restart(self._version, self._is_pausing, self._arriving is not None and not self._setting.in_flight)
        heapq.heappush(self._loads, (0, engine.number))
        self._at(self._now, self._admit)  # after all that come back at this time, so that they share the groups

    def _start_engine(self) -> SimulatedEngine:
        engine = SimulatedEngine(len(self._engines), self._setting.max_num_seqs, self._table)
        engine.advance(self._now)
        engine.is_alive = False
        self._engines.append(engine)
        self._at(self._now + self._setting.engine_start_s, lambda: self._on_engine_restarted(engine, 0))
        if math.isfinite(self._setting.failures.engine_mean_s):
            self._plan_engine_failure(engine)
        return engine

    def _fail_learner(self, restart_s: float) -> None:
        every = self._setting.failures.checkpoint_every_steps
        kept = self._step - self._step % every if every else 0
        away_s = restart_s + sum(step.train_s for step in self._trace.steps[kept:])
        self._learner_stamp += 1
        self._export_waits = False
        if self._training is not None:
            self._after(away_s + self._training.train_s, self._on_trained)
        else:
            self._learner_is_away = True
            self._after(away_s, self._on_learner_restarted)

    def _on_learner_restarted(self) -> None:
        self._learner_is_away = False
        self._try_train()


class _GroupLengths:
    """Lengths by order of issue: the same for every η, so that settings differ in nothing else."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._randoms = [np.random.default_rng((setting.seed, kind)) for kind in (0, 1)]
        self._blocks: list[NDArray[np.int64]] = [np.zeros((0, 1), np.int64)] * 2
        self._places = [0, 0]

    def next(self, is_again: bool) -> list[int]:
        """Of the next group; those issued again are drawn apart."""
        kind = int(is_again)
        if self._places[kind] == len(self._blocks[kind]):
            shape = (BLOCK, self._setting.num_completions)
            self._blocks[kind], self._places[kind] = self._setting.lengths.draw(self._randoms[kind], shape), 0
        self._places[kind] += 1
        lengths: list[int] = self._blocks[kind][self._places[kind] - 1].tolist()
        return lengths
