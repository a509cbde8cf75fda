"""What `plan --simulate` makes of a chaos run: effective training time from the restart times that were measured.

Given the disturbances of `benchmarks.chaos` and its undisturbed rate; gives wall time without failures ÷ with them. The
simulated run has the same step time; an engine and its worker fail as an engine, the others as the learner, each as
often as it was disturbed and away for as long as it was. What is trained again is in that time, so steps are not
taken back once more.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from raylign.jobs.simulation.rates import DecodeCurve, FailureRates, RecordedLengths, Setting
from raylign.jobs.simulation.simulate import effective_time_ratio, simulate

ENGINE_ROLES = ("engine", "engine's worker")
NUM_SEEDS = 5
MOST_STEPS = 5000
"""Of one simulated run; several seeds give more failures than the measured run had."""


@dataclass(frozen=True)
class Shape:
    """What is generated for a step."""

    groups_per_step: int
    num_completions: int
    num_tokens: int
    max_staleness: int
    num_engines: int


def predicted(standstills_s: Sequence[tuple[str, float]], steps_per_s: float, wall_s: float, shape: Shape) -> float:
    """Effective training time; `standstills_s`: role and seconds of each disturbance."""
    engine = [seconds for role, seconds in standstills_s if role in ENGINE_ROLES]
    learner = [seconds for role, seconds in standstills_s if role not in ENGINE_ROLES]
    failures = FailureRates(
        engine_mean_s=shape.num_engines * wall_s / len(engine) if engine else math.inf,
        engine_restart_s=statistics.mean(engine) if engine else 0.0,
        learner_mean_s=wall_s / len(learner) if learner else math.inf,
        learner_restart_s=statistics.mean(learner) if learner else 0.0,
        checkpoint_every_steps=1,
    )
    setting = Setting(
        num_engines=shape.num_engines,
        max_num_seqs=256,
        groups_per_step=shape.groups_per_step,
        num_completions=shape.num_completions,
        num_steps=max(1, min(MOST_STEPS, math.ceil(steps_per_s * wall_s))),
        max_staleness=shape.max_staleness,
        decode=DecodeCurve({1: 1.0}),
        lengths=RecordedLengths([shape.num_tokens]),
        learner_tokens_per_s=math.inf,
    )
    step_s = simulate(replace(setting, num_steps=20)).step_s
    setting = replace(setting, decode=DecodeCurve({1: 1 / (steps_per_s * step_s)}), failures=failures)
    return statistics.mean(effective_time_ratio(replace(setting, seed=seed)) for seed in range(NUM_SEEDS))
