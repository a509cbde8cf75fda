"""`raylign plan --simulate`: how long a run will take, who waits, and how old its tokens will be.

Given a `PlanConfig` with measured rates; prints one column for η = 0 and one for the η of the run. `simulate_like` does
the same for what a benchmark measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, Field

from raylign.jobs.simulation.config import FailuresConfig, PlanConfig
from raylign.jobs.simulation.from_run import RecordedRates, read_rates
from raylign.jobs.simulation.loop import run_simulation
from raylign.jobs.simulation.rates import (
    DecodeCurve,
    FailureRates,
    Lengths,
    LognormalLengths,
    RecordedLengths,
    Setting,
)
from raylign.jobs.simulation.result import Prediction, predict


@dataclass(frozen=True)
class Gain:
    """The same work with η = 0 and with more."""

    synchronous: Prediction
    asynchronous: Prediction

    @property
    def steps_ratio(self) -> float:
        """Of the time of a step in the steady part."""
        return self.synchronous.step_s / self.asynchronous.step_s

    @property
    def wall_ratio(self) -> float:
        """Of the time of all steps, the first fill included."""
        return self.synchronous.wall_s / self.asynchronous.wall_s


def simulate(setting: Setting) -> Prediction:
    """Predict one setting."""
    return predict(run_simulation(setting))


def gain(setting: Setting) -> Gain:
    """Predict it, and the same with η = 0."""
    return Gain(simulate(replace(setting, max_staleness=0)), simulate(setting))


def effective_time_ratio(setting: Setting) -> float:
    """Wall time without failures ÷ with them, of the same run."""
    return run_simulation(replace(setting, failures=FailureRates())).wall_s / run_simulation(setting).wall_s


class Measured(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """What a benchmark of one machine measured, each role alone."""

    decode_step_s: dict[int, float]
    """Seconds of a decode step of one engine by running sequences."""
    completion_lengths: list[int] = Field(min_length=1)
    """Tokens of completions of the workload."""
    learner_tokens_per_s: float = Field(gt=0)
    """Of all ranks together."""
    learner_fixed_s: float = Field(0.0, ge=0)
    export_s: float = Field(0.0, ge=0)
    sync_s: float = Field(0.0, ge=0)
    num_engines: int = Field(1, ge=1)
    max_num_seqs: int = Field(256, ge=1)
    groups_per_step: int = Field(ge=1)
    num_completions: int = Field(ge=1)
    num_steps: int = Field(ge=1)
    max_staleness: int = Field(2, ge=0)
    seed: int = 0


def simulate_like(measured: Mapping[str, Any]) -> Gain:
    """What the benchmark should see, by the keys of `Measured`."""
    numbers = Measured.model_validate(dict(measured))
    values = numbers.model_dump(exclude={"decode_step_s", "completion_lengths"})
    return gain(
        Setting(
            decode=DecodeCurve(numbers.decode_step_s), lengths=RecordedLengths(numbers.completion_lengths), **values
        )
    )


# ---- the command ---------------------------------------------------------------------------------------


def simulate_plan(config: PlanConfig) -> int:
    """Print the prediction of a run."""
    setting = setting_of(config)
    predictions = {f"η = {setting.max_staleness}": simulate(setting)}
    if setting.takes_turns:
        predictions = {"taking turns": next(iter(predictions.values()))}
    elif setting.max_staleness > 0:
        predictions = {"η = 0": simulate(replace(setting, max_staleness=0)), **predictions}
    _print(config, setting, predictions)
    return 0


def setting_of(config: PlanConfig) -> Setting:
    """The setting of a run; says all that is missing at once."""
    simulation, engine = config.simulation, config.rollout.engine
    recorded = read_rates(simulation.from_run) if simulation.from_run is not None else None
    lengths = _lengths(config, recorded)
    problems = []
    if lengths is None:
        problems.append("simulation.lengths.median_tokens is missing, and no recorded experience tells the lengths")
    if not simulation.decode_step_s and recorded is None:
        problems.append("simulation.decode_step_s is missing: give it, or simulation.from_run")
    if simulation.learner_tokens_per_s is None and recorded is None:
        problems.append("simulation.learner_tokens_per_s is missing: give it, or simulation.from_run")
    if problems or lengths is None:
        raise ValueError("\n".join(problems))
    if simulation.decode_step_s:
        curve = DecodeCurve(simulation.decode_step_s)
    else:
        assert recorded is not None
        curve = flat_curve(recorded, lengths)
    rank_tokens_per_s = simulation.learner_tokens_per_s or (recorded.learner_tokens_per_s if recorded else 0.0)
    return Setting(
        num_engines=config.rollout.num_engines,
        max_num_seqs=engine.max_num_seqs,
        groups_per_step=config.rollout.prompts_per_step,
        num_completions=config.sampling.num_completions,
        num_steps=min(simulation.num_steps, config.num_steps),
        max_staleness=_max_staleness(config),
        decode=curve,
        lengths=lengths,
        learner_tokens_per_s=rank_tokens_per_s * config.learner.num_ranks,
        learner_fixed_s=simulation.learner_fixed_s,
        export_s=_given(simulation.export_s, recorded.export_s if recorded else 0.0),
        sync_s=_given(simulation.sync_s, recorded.sync_s if recorded else 0.0),
        recompute_tokens_per_s=simulation.recompute_tokens_per_s or math.inf,
        takes_turns=simulation.takes_turns,
        switch_s=simulation.switch_s,
        failures=_failures(simulation.failures, config.checkpoints.every_steps),
        autoscale=config.rollout.autoscale,
        engine_start_s=simulation.failures.engine_restart_s,
        seed=config.seed,
    )


def flat_curve(recorded: RecordedRates, lengths: Lengths) -> DecodeCurve:
    """A run records one rate, not a curve. This is the time of a decode step, the same for every batch, with which the
    simulated engines of that run, never waiting for the learner, come to the recorded rate."""
    setting = Setting(
        num_engines=recorded.num_engines,
        max_num_seqs=recorded.max_num_seqs,
        groups_per_step=recorded.groups_per_step,
        num_completions=recorded.num_completions,
        num_steps=20,
        max_staleness=recorded.max_staleness,
        decode=DecodeCurve({1: 1.0}),
        lengths=lengths,
        learner_tokens_per_s=math.inf,
    )
    return DecodeCurve({1: simulate(setting).tokens_per_s / recorded.generated_tokens_per_s})


def _lengths(config: PlanConfig, recorded: RecordedRates | None) -> Lengths | None:
    given = config.simulation.lengths
    if given.median_tokens is not None:
        return LognormalLengths(given.median_tokens, given.p99_over_median, config.sampling.max_tokens)
    if recorded is not None and recorded.completion_lengths:
        return RecordedLengths(recorded.completion_lengths)
    return None


def _max_staleness(config: PlanConfig) -> int:
    asked = config.simulation.max_staleness
    return config.asynchrony.max_staleness if asked is None else asked


def _failures(config: FailuresConfig, checkpoint_every_steps: int) -> FailureRates:
    return FailureRates(
        engine_mean_s=config.engine_mean_s or math.inf,
        engine_restart_s=config.engine_restart_s,
        learner_mean_s=config.learner_mean_s or math.inf,
        learner_restart_s=config.learner_restart_s,
        checkpoint_every_steps=checkpoint_every_steps,
        restarts=config.restarts,
    )


def _given(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _print(config: PlanConfig, setting: Setting, predictions: Mapping[str, Prediction]) -> None:
    from rich.console import Console
    from rich.table import Table

    title = (
        f"Simulated: {setting.num_engines} engines, {config.learner.num_ranks} learner ranks, "
        f"{setting.groups_per_step} × {setting.num_completions} completions a step, "
        f"{setting.lengths.mean:,.0f} tokens each"
    )
    table = Table("", *predictions, title=title, title_justify="left")
    for name, cells in _rows(config, setting, list(predictions.values())):
        table.add_row(name, *cells)
    console = Console()
    console.print(table)
    if config.simulation.from_run is not None and not config.simulation.decode_step_s:
        console.print(
            "A run records one decode rate: thin batches are taken to decode as many steps a second as full ones. "
            "Measure the curve and give simulation.decode_step_s for a better prediction.",
            soft_wrap=True,
        )


def _rows(config: PlanConfig, setting: Setting, all_of: list[Prediction]) -> list[tuple[str, list[str]]]:
    walls_s = [each.wall_s + (config.num_steps - each.num_steps) * each.step_s for each in all_of]
    rows = [
        ("step", [f"{each.step_s:,.2f} s" for each in all_of]),
        (f"wall, {config.num_steps} steps", [_duration(wall_s) for wall_s in walls_s]),
        ("samples/s", [f"{each.samples_per_s:,.2f}" for each in all_of]),
        ("tokens/s", [f"{each.tokens_per_s:,.0f}" for each in all_of]),
        ("times as fast as the first", [f"{all_of[0].step_s / each.step_s:.2f}" for each in all_of]),
        ("engines idle", [f"{each.engines_idle_share:.1%}" for each in all_of]),
        ("learner idle", [f"{each.learner_idle_share:.1%}" for each in all_of]),
        ("bound of a step", [f"{each.bound_step_s:,.2f} s" for each in all_of]),
        ("share of the bound", [f"{each.share_of_bound:.1%}" for each in all_of]),
    ]
    if setting.autoscale is not None:
        rows.append(("engines", [_engine_words(each.num_engines_by_step) for each in all_of]))
    ages = sorted({age for each in all_of for age in each.staleness_shares})
    rows += [
        (f"tokens {age} versions old", [f"{each.staleness_shares.get(age, 0.0):.1%}" for each in all_of])
        for age in ages
    ]
    rows.append(("tokens masked", [f"{each.masked_share:.2%}" for each in all_of]))
    if setting.failures.can_happen:
        clean = [
            run_simulation(replace(setting, max_staleness=eta, failures=FailureRates())).wall_s
            for eta in _etas(setting, all_of)
        ]
        rows += [
            ("failures", [f"{each.num_failures}" for each in all_of]),
            ("tokens lost", [f"{each.lost_token_share:.2%}" for each in all_of]),
            ("effective time", [f"{wall_s / each.wall_s:.1%}" for wall_s, each in zip(clean, all_of, strict=True)]),
        ]
    return rows


def _engine_words(by_step: tuple[int, ...]) -> str:
    """`2 → 4 (step 5) → 3 (step 11)`."""
    changes = [step for step in range(1, len(by_step)) if by_step[step] != by_step[step - 1]]
    return " → ".join([f"{by_step[0]}", *(f"{by_step[step]} (step {step + 1})" for step in changes)])


def _etas(setting: Setting, all_of: list[Prediction]) -> list[int]:
    return [setting.max_staleness] if len(all_of) == 1 else [0, setting.max_staleness]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
