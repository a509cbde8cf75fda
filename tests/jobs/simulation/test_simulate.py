"""The simulator against exact times worked out by hand, its invariants, an older simulation, and published ratios."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.simulation_anchor import ANCHORS, Anchor, speedups
from benchmarks.simulation_published import CASES, PublishedCase, compare
from raylign.jobs.cli import run_command_line
from raylign.jobs.simulation.from_run import read_rates
from raylign.jobs.simulation.loop import Trace, run_simulation
from raylign.jobs.simulation.rates import DecodeCurve, FailureRates, LognormalLengths, RecordedLengths, Setting
from raylign.jobs.simulation.result import predict
from raylign.jobs.simulation.simulate import effective_time_ratio, flat_curve, gain, simulate, simulate_like
from raylign.rollout.autoscale import AutoscaleConfig


@dataclass(frozen=True)
class LengthsInOrder:
    """As given, again and again."""

    tokens: Sequence[int]

    @property
    def mean(self) -> float:
        return float(np.mean(self.tokens))

    def draw(self, random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.int64]:
        return np.resize(np.asarray(self.tokens, np.int64), shape)


CONSTANT = Setting(
    num_engines=2,
    max_num_seqs=4,
    groups_per_step=4,
    num_completions=2,
    num_steps=6,
    max_staleness=0,
    decode=DecodeCurve({1: 0.01, 4: 0.02}),
    lengths=LengthsInOrder([100]),
    learner_tokens_per_s=400,
    learner_fixed_s=0.5,
    export_s=0.25,
    sync_s=0.75,
)

LONG_TAIL = Setting(
    num_engines=4,
    max_num_seqs=16,
    groups_per_step=16,
    num_completions=4,
    num_steps=24,
    max_staleness=2,
    decode=DecodeCurve({1: 0.005, 16: 0.012}),
    lengths=LognormalLengths(100, 8, 800),
    learner_tokens_per_s=4000,
    learner_fixed_s=0.1,
    export_s=0.1,
    sync_s=0.2,
)


# ---- worked out by hand --------------------------------------------------------------------------------


def test_without_staleness_a_step_of_constant_lengths_is_generate_plus_train_plus_export_plus_sync() -> None:
    # 8 completions, 4 on each engine, 100 decode steps of 0.02 s; 800 tokens at 400/s and 0.5 s
    trace = run_simulation(CONSTANT)
    assert trace.wall_s == pytest.approx(6 * (2.0 + 2.5 + 0.25 + 0.75), rel=1e-12)
    assert trace.steps[0].end_s == pytest.approx(4.75, rel=1e-12)
    prediction = predict(trace)
    assert prediction.step_s == pytest.approx(5.5)
    assert prediction.samples_per_s == pytest.approx(8 / 5.5)
    assert prediction.engines_idle_share == pytest.approx(1 - 2.0 / 5.5)
    assert prediction.learner_idle_share == pytest.approx(1 - 2.75 / 5.5)
    assert prediction.staleness_shares == {0: 1.0}
    assert prediction.bound_step_s == pytest.approx(2.5)  # 800 tokens at 2 · 200/s would be 2 s


def test_completions_that_find_no_place_wait_in_their_engine() -> None:
    # 2 places for 4 completions: two rounds of 100 steps, and 2 sequences take 0.01 + 0.01/3 s a step
    trace = run_simulation(replace(CONSTANT, max_num_seqs=2, num_steps=3))
    assert trace.wall_s == pytest.approx(3 * (2 * 100 * (0.01 + 0.01 / 3) + 3.5), rel=1e-12)


def test_devices_that_take_turns_pay_for_the_switch_and_are_bound_by_the_sum_of_both_works() -> None:
    prediction = simulate(replace(CONSTANT, takes_turns=True, switch_s=0.5, max_staleness=2))
    assert prediction.step_s == pytest.approx(6.0)
    assert prediction.bound_step_s == pytest.approx(2.0 + 2.5)
    assert prediction.staleness_shares == {0: 1.0}


def test_two_engines_end_their_sequences_and_take_weights_in_flight_at_the_times_worked_out_by_hand() -> None:
    """A decode step takes 2 s with two sequences and 1 s with one. η = 1 lets all four groups start at 0:

    engine 0: lengths 3 and 4 → the first ends at 3 · 2 = 6 s, the other needs one step more, alone: 7 s
    engine 1: lengths 5 and 6 → 10 s and 11 s, were it not for the update
    step 0 trains the first two from 7 s: 7 tokens at 7/s, 1 s fixed, 0.5 s export: 9.5 s; engines stand until 10.5 s
    engine 1 has done 4.75 steps by then: a quarter of a step is left to the first end, at 11 s; the last ends at 12 s
    step 1 trains 11 tokens from 12 s; of 5 tokens 4, and of 6 tokens 4, were sampled before the update
    """
    setting = Setting(
        num_engines=2,
        max_num_seqs=2,
        groups_per_step=2,
        num_completions=1,
        num_steps=2,
        max_staleness=1,
        decode=DecodeCurve({1: 1.0, 2: 2.0}),
        lengths=LengthsInOrder([3, 5, 4, 6]),
        learner_tokens_per_s=7,
        learner_fixed_s=1.0,
        export_s=0.5,
        sync_s=1.0,
    )
    trace = run_simulation(setting)
    assert [step.start_s for step in trace.steps] == pytest.approx([7.0, 12.0], rel=1e-12)
    assert [step.end_s for step in trace.steps] == pytest.approx([9.5, 12 + 11 / 7 + 1.5], rel=1e-12)
    assert trace.steps[0].tokens_by_staleness == {0: 7}
    assert trace.steps[1].tokens_by_staleness == {0: 3, 1: 8}
    assert trace.wall_s == pytest.approx(12 + 11 / 7 + 2.5, rel=1e-12)
    assert trace.steps[1].engines_busy_s == pytest.approx(7 + 9.5 + 1.5, rel=1e-12)

    # running sequences hold 4.75 + 4.75 tokens: at 9 whole tokens in 3 s, engine 1 goes on 3 s later
    later = run_simulation(replace(setting, recompute_tokens_per_s=3.0))
    assert later.steps[1].start_s == pytest.approx(15.0, rel=1e-12)

    # with drain, engine 1 ends at 11 s on the old weights, and the update comes after it
    drained = run_simulation(replace(setting, in_flight=False))
    assert drained.steps[1].start_s == pytest.approx(11.0, rel=1e-12)
    assert drained.steps[1].tokens_by_staleness == {1: 11}


# ---- what must always hold -----------------------------------------------------------------------------


SETTINGS = {
    "synchronous": replace(LONG_TAIL, max_staleness=0),
    "one step": replace(LONG_TAIL, max_staleness=1),
    "two steps": LONG_TAIL,
    "slow learner": replace(LONG_TAIL, learner_tokens_per_s=400),
    "fast learner": replace(LONG_TAIL, learner_tokens_per_s=40_000),
    "drain": replace(LONG_TAIL, in_flight=False),
    "recompute": replace(LONG_TAIL, recompute_tokens_per_s=5000),
    "turns": replace(LONG_TAIL, takes_turns=True, switch_s=0.3),
    "failures": replace(LONG_TAIL, failures=FailureRates(15.0, 2.0, 20.0, 1.0, checkpoint_every_steps=4)),
    "job failures": replace(LONG_TAIL, failures=FailureRates(30.0, 1.0, 40.0, 1.0, 4, restarts="job")),
}


@pytest.fixture(scope="module")
def traces() -> dict[str, Trace]:
    return {name: run_simulation(setting) for name, setting in SETTINGS.items()}


@pytest.mark.parametrize("name", SETTINGS)
def test_no_role_does_more_than_its_rate_and_every_token_is_generated_and_trained_once(
    name: str, traces: dict[str, Trace]
) -> None:
    trace, setting = traces[name], SETTINGS[name]
    assert len(trace.steps) == setting.num_steps
    num_trained = sum(step.num_tokens for step in trace.steps)
    assert trace.steps[-1].num_generated == pytest.approx(num_trained, rel=1e-9)
    for before, step in pairwise(trace.steps):
        assert step.start_s >= before.end_s - 1e-9
        busy_s = step.engines_busy_s - before.engines_busy_s
        assert busy_s <= setting.num_engines * (step.end_s - before.end_s) + 1e-6
        assert step.end_s - step.start_s >= step.train_s + setting.export_s - 1e-9
        assert step.train_s == pytest.approx(step.num_tokens / setting.learner_tokens_per_s + setting.learner_fixed_s)
    all_generated = trace.steps[-1].num_generated + trace.num_lost_tokens
    rate_of_one = setting.decode.saturated_tokens_per_s(setting.max_num_seqs)
    assert all_generated <= trace.steps[-1].engines_busy_s * rate_of_one * (1 + 1e-9)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_bound_is_never_beaten_and_no_token_over_the_staleness_bound_is_trained(
    name: str, traces: dict[str, Trace]
) -> None:
    trace = traces[name]
    prediction = predict(trace)
    assert prediction.share_of_bound <= 1 + 1e-9 and prediction.wall_share_of_bound <= 1 + 1e-9
    allowed = 0 if trace.setting.takes_turns else trace.setting.max_staleness
    for step in trace.steps:
        over = sum(tokens for age, tokens in step.tokens_by_staleness.items() if age > allowed)
        assert step.num_masked == over
        assert min(step.tokens_by_staleness) >= 0
    if allowed == 0:
        assert prediction.staleness_shares == {0: 1.0} and prediction.masked_share == 0


def test_without_failures_and_staleness_all_trained_lengths_are_those_that_were_drawn() -> None:
    lengths = LengthsInOrder([3, 50, 7, 20])
    setting = replace(LONG_TAIL, lengths=lengths, num_completions=4)
    assert [step.num_tokens for step in run_simulation(setting).steps] == [16 * 80] * setting.num_steps


def test_more_staleness_is_never_slower() -> None:
    walls_s = [run_simulation(replace(LONG_TAIL, max_staleness=eta)).wall_s for eta in range(5)]
    for slower_s, faster_s in pairwise(walls_s):
        assert faster_s <= slower_s * 1.02
    assert walls_s[2] < 0.8 * walls_s[0]


def test_a_seed_decides_everything() -> None:
    failing = SETTINGS["failures"]
    assert simulate(failing) == simulate(failing)
    assert simulate(failing) != simulate(replace(failing, seed=1))


def test_a_slow_or_fast_learner_is_bounded_by_the_other_side() -> None:
    slow = simulate(SETTINGS["slow learner"])
    assert slow.share_of_bound > 0.95 and slow.learner_idle_share < 0.01
    fast = simulate(SETTINGS["fast learner"])
    assert fast.learner_idle_share > 0.5


# ---- failures ------------------------------------------------------------------------------------------


def test_a_learner_that_fails_is_away_for_its_restart_and_the_steps_since_its_checkpoint() -> None:
    # a step takes 5.5 s, and trains from 2 s to 4.5 s of it; the learner fails 3 s into the fourth, and never again
    first, second = np.random.default_rng((CONSTANT.seed, 2)).exponential(size=2)
    mean_s = (3 * 5.5 + 3) / first
    rates = FailureRates(learner_mean_s=mean_s, learner_restart_s=7.0, checkpoint_every_steps=0)
    trace = run_simulation(replace(CONSTANT, failures=rates))
    # a second of training is lost, and the three steps before it are trained again
    wall_s = 6 * 5.5 + 1.0 + 7.0 + 3 * 2.5
    assert mean_s * (first + second) > wall_s and trace.num_failures == 1
    assert trace.wall_s == pytest.approx(wall_s, rel=1e-9)


def test_after_a_restart_of_the_job_all_engines_share_what_was_lost() -> None:
    # the job fails 1 s into the fourth step, while both engines generate, and never again
    first, second = np.random.default_rng((CONSTANT.seed, 2)).exponential(size=2)
    mean_s = (3 * 5.5 + 1) / first
    rates = FailureRates(engine_restart_s=7.0, learner_mean_s=mean_s, learner_restart_s=5.0, restarts="job")
    trace = run_simulation(replace(CONSTANT, failures=rates))
    assert mean_s * (first + second) > trace.wall_s and trace.num_failures == 1
    assert trace.wall_s == pytest.approx(6 * 5.5 + 1.0 + 7.0, rel=1e-9)
    assert trace.num_lost_tokens == pytest.approx(8 * 50)  # 1 s is 50 steps


def test_restarting_only_the_role_that_failed_keeps_more_of_the_time_than_restarting_the_job() -> None:
    rates = FailureRates(60.0, 3.0, 60.0, 3.0, checkpoint_every_steps=1)
    role = effective_time_ratio(replace(LONG_TAIL, num_steps=40, failures=rates))
    job = effective_time_ratio(replace(LONG_TAIL, num_steps=40, failures=replace(rates, restarts="job")))
    assert job < role < 1


# ---- held against others -------------------------------------------------------------------------------


@pytest.mark.parametrize("anchor", [ANCHORS[0], ANCHORS[2]], ids=lambda anchor: f"tail {anchor.tail}")
def test_the_older_simulation_is_reproduced_within_a_few_per_cent(anchor: Anchor) -> None:
    assert speedups(anchor, num_steps=24) == pytest.approx(anchor.published, rel=0.04)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_published_ratios_are_predicted_within_fifteen_per_cent(case: PublishedCase) -> None:
    result = compare(case)
    assert result.against_published == pytest.approx(1.0, abs=0.15)
    assert result.synchronous.step_s == pytest.approx(case.published_sync_s, rel=0.01)


# ---- rates ---------------------------------------------------------------------------------------------


def test_the_decode_curve_is_straight_between_points_and_goes_on_beyond_them() -> None:
    curve = DecodeCurve({8: 0.03, 2: 0.01, 4: 0.02})
    assert [curve.step_s(count) for count in (1, 2, 3, 8, 10)] == pytest.approx([0.01, 0.01, 0.015, 0.03, 0.035])
    assert curve.saturated_tokens_per_s(4) == pytest.approx(200)  # 2 / 0.01 and 4 / 0.02
    assert curve.saturated_tokens_per_s(8) == pytest.approx(8 / 0.03)
    with pytest.raises(ValueError, match="decode_step_s is empty"):
        DecodeCurve({})
    with pytest.raises(ValueError, match="decode_step_s has 4: -1"):
        DecodeCurve({4: -1.0})


def test_lognormal_lengths_have_their_median_and_tail_and_are_cut() -> None:
    tokens = LognormalLengths(100, 10, 5000).draw(np.random.default_rng(0), (200_000,))
    assert np.median(tokens) == pytest.approx(100, rel=0.01)
    assert np.quantile(tokens, 0.99) == pytest.approx(1000, rel=0.03)
    assert LognormalLengths(100, 10, 300).draw(np.random.default_rng(0), (1000,)).max() == 300


def test_a_benchmark_is_predicted_from_what_each_role_did_alone() -> None:
    predicted = simulate_like(
        {
            "decode_step_s": {1: 0.005, 16: 0.012},
            "completion_lengths": [40, 60, 80, 100, 500],
            "learner_tokens_per_s": 1500,
            "num_engines": 1,
            "max_num_seqs": 16,
            "groups_per_step": 8,
            "num_completions": 4,
            "num_steps": 20,
        }
    )
    setting = replace(
        LONG_TAIL,
        num_engines=1,
        groups_per_step=8,
        num_steps=20,
        lengths=RecordedLengths([40, 60, 80, 100, 500]),
        learner_tokens_per_s=1500,
        learner_fixed_s=0.0,
        export_s=0.0,
        sync_s=0.0,
    )
    assert predicted == gain(setting)
    assert predicted.wall_ratio > 1.5 and predicted.asynchronous.wall_share_of_bound > 0.9


# ---- a recorded run, the command -----------------------------------------------------------------------


def record_run(folder: Path, *, with_experience: bool = True) -> Path:
    """A run of 6 steps: 2 engines, 2 ranks; the first two steps are slow."""
    import pyarrow as pa

    folder.mkdir()
    (folder / "config.yaml").write_text(
        "rollout: {num_engines: 2, prompts_per_step: 8, engine: {max_num_seqs: 16}}\n"
        "sampling: {num_completions: 2}\nlearner: {num_ranks: 2}\nasync: {max_staleness: 1}\n"
    )
    line = {
        "rollout/tokens_per_s": 500.0,
        "learner/tokens_per_s": 3000.0,
        "time/weights_s": 0.5,
        "weights/pause_s": 0.2,
    }
    slow = line | {"rollout/tokens_per_s": 5.0}
    rows = [json.dumps({"step": step} | (slow if step < 3 else line)) for step in range(1, 7)]
    (folder / "metrics.jsonl").write_text("\n".join([json.dumps({"step": 0}), *rows]) + '\n{"step": 7, "ro')
    if with_experience:
        (folder / "experience").mkdir()
        groups = pa.array([[[1, 2, 3], [4]], [], [[5, 6, 7, 8, 9, 10]]], pa.list_(pa.list_(pa.int32())))
        batch = pa.record_batch({"offset": pa.array([0, 1, 2]), "completion_token_ids": groups})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch)
            stream.write_batch(batch)
        torn = sink.getvalue().to_pybytes()[:-200]
        (folder / "experience" / "segment-000000.arrows").write_bytes(torn)
    return folder


def test_rates_of_a_recorded_run_are_medians_and_its_lengths_come_from_the_log(tmp_path: Path) -> None:
    rates = read_rates(record_run(tmp_path / "run"))
    assert (rates.generated_tokens_per_s, rates.learner_tokens_per_s) == (500.0, 1500.0)
    assert (rates.export_s, rates.sync_s) == pytest.approx((0.3, 0.2))
    assert rates.completion_lengths == [3, 1, 6]  # of the record that is whole
    assert (rates.num_engines, rates.max_num_seqs, rates.groups_per_step, rates.max_staleness) == (2, 16, 8, 1)
    with pytest.raises(ValueError, match=r"there is no metrics\.jsonl in it"):
        read_rates(tmp_path)


def test_the_flat_curve_of_a_recorded_run_gives_its_rate_again(tmp_path: Path) -> None:
    rates = read_rates(record_run(tmp_path / "run"))
    lengths = RecordedLengths(rates.completion_lengths)
    curve = flat_curve(rates, lengths)
    setting = Setting(2, 16, 8, 2, 20, 1, curve, lengths, math.inf)
    assert simulate(setting).tokens_per_s == pytest.approx(500.0)


PLAN = ["plan", "--rewards", '[{"name": "numeric"}]']
RATES = ["--simulation.decode_step_s", '{"1": 0.004, "64": 0.009}', "--simulation.lengths.median_tokens", "20"]


def test_plan_prints_the_prediction_for_a_machine_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*RATES, "--simulation.learner_tokens_per_s", "2000", "--rollout.num_engines", "48"]
    assert run_command_line([*PLAN, "--simulate", *words, "--simulation.failures.engine_mean_s", "100"]) == 0
    printed = capsys.readouterr().out
    for name in ("η = 0", "η = 2", "step", "engines idle", "share of the bound", "tokens masked", "effective time"):
        assert name in printed


def test_plan_predicts_from_a_recorded_run_and_says_what_a_run_does_not_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = record_run(tmp_path / "run")
    assert run_command_line([*PLAN, "--simulate", "--simulation.from_run", str(run)]) == 0
    assert "A run records one decode rate" in capsys.readouterr().out


def test_plan_names_all_rates_that_are_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line([*PLAN, "--simulate"]) == 2
    printed = capsys.readouterr().err
    for key in ("simulation.lengths.median_tokens", "simulation.decode_step_s", "simulation.learner_tokens_per_s"):
        assert f"{key} is missing" in printed
    run = record_run(tmp_path / "run", with_experience=False)
    assert run_command_line([*PLAN, "--simulate", "--simulation.from_run", str(run)]) == 2
    assert "no recorded experience tells the lengths" in capsys.readouterr().err


def test_rates_that_nobody_would_read_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line([*PLAN, *RATES]) == 2
    assert "add --simulate" in capsys.readouterr().err


# ---- engines that join and leave -----------------------------------------------------------------------

POLICY = AutoscaleConfig(min_engines=1, max_engines=12)


def test_engines_join_until_the_learner_seldom_waits_and_leave_until_they_are_busy() -> None:
    slow, enough, many = (
        replace(LONG_TAIL, num_engines=count, num_steps=60, autoscale=POLICY, engine_start_s=5.0)
        for count in (1, 4, 12)
    )
    for setting in (slow, many):
        by_step = simulate(setting).num_engines_by_step
        assert by_step[0] == setting.num_engines and set(by_step[-20:]) <= {3, 4, 5}, by_step
    fixed = simulate(replace(slow, autoscale=None))
    assert simulate(slow).wall_s < 0.6 * fixed.wall_s
    assert simulate(many).engines_idle_share < simulate(replace(many, autoscale=None)).engines_idle_share
    assert set(simulate(enough).num_engines_by_step) <= {3, 4, 5}


def test_every_group_is_trained_once_while_engines_come_and_go_and_fail() -> None:
    setting = replace(
        LONG_TAIL,
        num_engines=12,
        num_steps=60,
        autoscale=POLICY,
        engine_start_s=5.0,
        failures=FailureRates(engine_mean_s=30.0, engine_restart_s=4.0),
    )
    trace = run_simulation(setting)
    assert len(trace.steps) == 60 and trace.num_failures > 10
    assert trace.steps[-1].num_engines < 12


def test_at_eta_0_the_number_of_engines_stays() -> None:
    assert set(simulate(replace(LONG_TAIL, max_staleness=0, autoscale=POLICY)).num_engines_by_step) == {4}
