"""What a simulated run comes to: step time, wall time, idle shares, staleness, and the bound that it is held against.

Given a `Trace`; gives a `Prediction`. The bound is the work of the busier side alone: generated tokens at the engines'
best rate, or the training of the steps, whichever takes longer (their sum where both take turns on the same devices).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from raylign.jobs.simulation.loop import Trace


@dataclass(frozen=True)
class Prediction:
    """Of one setting. Rates and shares are those of the steady part: neither the first fill nor the last drain."""

    step_s: float
    samples_per_s: float
    tokens_per_s: float
    engines_idle_share: float
    """Engines that decode nothing: no sequence, an update, a restart."""
    num_engines_by_step: tuple[int, ...]
    """At the end of each simulated step."""
    learner_idle_share: float
    """The learner neither trains nor exports."""
    bound_step_s: float
    share_of_bound: float
    """`bound_step_s` ÷ `step_s`; at most 1."""
    staleness_shares: dict[int, float]
    """Share of the tokens that were that many versions old when their step came; those over the bound are masked."""
    masked_share: float
    wall_s: float
    """All simulated steps, the first fill and the last update included."""
    wall_bound_s: float
    wall_share_of_bound: float
    num_steps: int
    num_failures: int
    lost_token_share: float
    """Generated and lost by failures, of all that was generated."""

    @property
    def mean_staleness(self) -> float:
        return sum(age * share for age, share in self.staleness_shares.items())

    @property
    def max_trained_staleness(self) -> int:
        return max(self.staleness_shares, default=0)


def predict(trace: Trace) -> Prediction:
    """Sum up."""
    setting, steps = trace.setting, trace.steps
    first, last = _steady(len(steps), setting.max_staleness)
    begin = steps[first - 1] if first else None
    end = steps[last]
    num_steps = last - first + 1
    passed_s = end.end_s - (begin.end_s if begin else 0.0)
    steady = steps[first : last + 1]
    trained_s = sum(step.train_s for step in steady)
    generated = end.num_generated - (begin.num_generated if begin else 0.0)
    engines_s = end.engines_s - (begin.engines_s if begin else 0.0)
    bound_s = _bound_s(trace, generated, trained_s, engines_s / passed_s)
    tokens = sum(step.num_tokens for step in steady)
    num_samples = num_steps * setting.groups_per_step * setting.num_completions
    wall_bound_s = _bound_s(
        trace,
        sum(step.num_tokens for step in steps),
        sum(step.train_s for step in steps),
        steps[-1].engines_s / steps[-1].end_s,
    )
    ages: Counter[int] = Counter()
    for step in steady:
        ages.update(step.tokens_by_staleness)
    return Prediction(
        step_s=passed_s / num_steps,
        samples_per_s=num_samples / passed_s,
        tokens_per_s=tokens / passed_s,
        engines_idle_share=_idle(end.engines_busy_s - (begin.engines_busy_s if begin else 0.0), engines_s),
        num_engines_by_step=tuple(step.num_engines for step in steps),
        learner_idle_share=_idle(end.learner_busy_s - (begin.learner_busy_s if begin else 0.0), passed_s),
        bound_step_s=bound_s / num_steps,
        share_of_bound=bound_s / passed_s,
        staleness_shares={age: ages[age] / tokens for age in sorted(ages)},
        masked_share=sum(step.num_masked for step in steady) / tokens,
        wall_s=trace.wall_s,
        wall_bound_s=wall_bound_s,
        wall_share_of_bound=wall_bound_s / trace.wall_s,
        num_steps=len(steps),
        num_failures=trace.num_failures,
        lost_token_share=trace.num_lost_tokens / (trace.num_lost_tokens + steps[-1].num_generated),
    )


def _steady(num_steps: int, max_staleness: int) -> tuple[int, int]:
    """First and last step of the steady part: the first steps still fill the log, the last find ever fewer groups."""
    first = min(num_steps // 3, max_staleness + 3)
    last = num_steps - 1 - min(num_steps // 4, max_staleness + 1)
    return first, max(first, last)


def _bound_s(trace: Trace, num_tokens: float, train_s: float, num_engines: float) -> float:
    """`num_engines`: mean over the time."""
    setting = trace.setting
    generate_s = num_tokens / (num_engines * setting.decode.saturated_tokens_per_s(setting.max_num_seqs))
    return generate_s + train_s if trace.setting.takes_turns else max(generate_s, train_s)


def _idle(busy_s: float, passed_s: float) -> float:
    return max(0.0, 1.0 - busy_s / passed_s)
