"""Published ratios of asynchronous to synchronous runs, predicted from what was published beside them.

Given nothing but the constants of this file; gives `PublishedCase`s, and by
`python -m benchmarks.simulation_published` their table and that of the anchor. No constant is fitted to a ratio or to
an asynchronous time; docs/scaling.md says where each is from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.simulation_anchor import ANCHORS, speedups
from raylign.jobs.simulation.loop import run_simulation
from raylign.jobs.simulation.rates import DecodeCurve, Lengths, LognormalLengths, Setting
from raylign.jobs.simulation.result import Prediction, predict

NUM_STEPS = 20
GIGA, TERA = 1e9, 1e12


@dataclass(frozen=True)
class Accelerator:
    """One device, and the shares of its peaks that are reached in practice (assumed, the same for all cases)."""

    flops_per_s: float
    bytes_per_s: float
    memory_bytes: float
    prefill_flops_share: float = 0.5
    bandwidth_share: float = 0.7
    memory_share: float = 0.7


@dataclass(frozen=True)
class Model:
    """bfloat16 weights and grouped keys and values."""

    num_parameters: float
    num_layers: int
    kv_width: int

    @property
    def weight_bytes(self) -> float:
        return 2.0 * self.num_parameters

    @property
    def kv_bytes_per_token(self) -> float:
        return 2.0 * 2.0 * self.num_layers * self.kv_width


H800 = Accelerator(989 * TERA, 3.35 * TERA, 80 * GIGA)
H20 = Accelerator(148 * TERA, 4.0 * TERA, 96 * GIGA)
QWEN_1_5B = Model(1.54 * GIGA, 28, 256)
QWEN_7B = Model(7.6 * GIGA, 28, 512)
AREAL_LENGTHS = LognormalLengths(3350, 12.2, 27 * 1024)
VERL_LENGTHS = LognormalLengths(1000, 10, 28 * 1024)


@dataclass(frozen=True)
class Pair:
    """The settings of both sides."""

    synchronous: Setting
    asynchronous: Setting


@dataclass(frozen=True)
class PublishedCase:
    """One published ratio."""

    name: str
    low: float
    high: float
    """The published ratio, or the ends of its range."""
    pair: Callable[[], Pair]
    published_sync_s: float
    published_async_s: float


@dataclass(frozen=True)
class Comparison:
    """Ours beside theirs."""

    case: PublishedCase
    pair: Pair
    synchronous: Prediction
    asynchronous: Prediction

    @property
    def ratio(self) -> float:
        return self.synchronous.step_s / self.asynchronous.step_s

    @property
    def against_published(self) -> float:
        """Predicted ÷ published; the nearest end of a range counts, 1 inside it."""
        return self.ratio / min(max(self.ratio, self.case.low), self.case.high)


def mean_context(lengths: Lengths) -> float:
    """Mean tokens that a running sequence holds: long ones run longer, and each is half done on average."""
    tokens = lengths.draw(np.random.default_rng(0), (200_000,)).astype(np.float64)
    return float((tokens**2).mean() / tokens.mean() / 2)


def room_for_sequences(model: Model, device: Accelerator, context: float) -> int:
    """Sequences whose keys and values fit beside the weights."""
    free_bytes = device.memory_bytes * device.memory_share - model.weight_bytes
    return int(free_bytes / (context * model.kv_bytes_per_token))


def decode_curve(
    model: Model, device: Accelerator, context: float, thin_step_s: float, max_num_seqs: int
) -> DecodeCurve:
    """A step costs what it costs for one sequence, and the keys and values of each further one."""
    more_s = context * model.kv_bytes_per_token / (device.bytes_per_s * device.bandwidth_share)
    return DecodeCurve({1: thin_step_s, max_num_seqs: thin_step_s + (max_num_seqs - 1) * more_s})


def as_published(synchronous: Callable[[float], Setting], step_s: float) -> Setting:
    """The synchronous setting whose steps take as long as was published, by the seconds of a thin decode step: the
    longest completion of a step decides how long the step is, and runs alone for most of its time."""
    thin_step_s = 0.5 * step_s / 28_000
    for _ in range(4):
        setting = synchronous(thin_step_s)
        thin_step_s += (step_s - predict(run_simulation(setting)).step_s) / 28_000
    return setting


def areal(model: Model, num_devices: int, sync_step_s: float) -> Pair:
    """512 prompts × 16, at most 27K tokens, η = 4; ¾ of the devices generate, as in the benchmark script that was
    published, and the learner is as fast as makes that split a balanced one."""
    device, context = H800, mean_context(AREAL_LENGTHS)
    max_num_seqs = room_for_sequences(model, device, context)

    def synchronous(thin_step_s: float) -> Setting:
        curve = decode_curve(model, device, context, thin_step_s, max_num_seqs)
        return Setting(
            num_engines=num_devices,
            max_num_seqs=max_num_seqs,
            groups_per_step=512,
            num_completions=16,
            num_steps=NUM_STEPS,
            max_staleness=0,
            decode=curve,
            lengths=AREAL_LENGTHS,
            learner_tokens_per_s=3 * curve.saturated_tokens_per_s(max_num_seqs) * num_devices,
            takes_turns=True,
        )

    setting = as_published(synchronous, sync_step_s)
    asynchronous = replace(
        setting,
        num_engines=num_devices * 3 // 4,
        learner_tokens_per_s=setting.learner_tokens_per_s / 4,
        takes_turns=False,
        max_staleness=4,
        recompute_tokens_per_s=device.flops_per_s * device.prefill_flops_share / (2 * model.num_parameters),
    )
    return Pair(setting, asynchronous)


def verl(sync_step_s: float, sync_generate_s: float, half_update_s: float) -> Pair:
    """512 prompts × 16, at most 28K tokens, η = 1; 128 devices against 64 + 64, which train as fast as 64 do in the
    synchronous run on 64. The asynchronous run takes the engines' log-probs, so it trains only."""
    device, context = H20, mean_context(VERL_LENGTHS)
    max_num_seqs = min(256, room_for_sequences(QWEN_7B, device, context))

    def synchronous(thin_step_s: float) -> Setting:
        return Setting(
            num_engines=128,
            max_num_seqs=max_num_seqs,
            groups_per_step=512,
            num_completions=16,
            num_steps=NUM_STEPS,
            max_staleness=0,
            decode=decode_curve(QWEN_7B, device, context, thin_step_s, max_num_seqs),
            lengths=VERL_LENGTHS,
            learner_tokens_per_s=math.inf,
            learner_fixed_s=sync_step_s - sync_generate_s,
            takes_turns=True,
        )

    setting = as_published(synchronous, sync_step_s)
    asynchronous = replace(setting, num_engines=64, learner_fixed_s=half_update_s, takes_turns=False, max_staleness=1)
    return Pair(setting, asynchronous)


CASES = (
    PublishedCase("AReaL 1.5B, 128 GPUs", 2.77, 2.77, lambda: areal(QWEN_1_5B, 128, 147.6), 147.6, 53.3),
    PublishedCase("AReaL 7B, 192 GPUs", 2.27, 2.27, lambda: areal(QWEN_7B, 192, 207.7), 207.7, 91.4),
    PublishedCase("verl 7B, 128 GPUs", 2.35, 2.67, lambda: verl(356.3, 177.85, 133.41), 356.3, 150.6),
)


def compare(case: PublishedCase) -> Comparison:
    """Simulate both sides."""
    pair = case.pair()
    return Comparison(case, pair, predict(run_simulation(pair.synchronous)), predict(run_simulation(pair.asynchronous)))


def main() -> None:
    """The tables of docs/scaling.md."""
    for anchor in ANCHORS:
        print(
            f"| {anchor.tail} | {anchor.generation_share} | "
            + " | ".join(
                f"{theirs:.2f} → {ours:.2f}" for theirs, ours in zip(anchor.published, speedups(anchor), strict=True)
            )
            + " |",
            flush=True,
        )
    for case in CASES:
        result = compare(case)
        pair = result.pair
        published = f"{case.low}" if case.low == case.high else f"{case.low}–{case.high}"
        print(
            f"| {case.name} | {published} | {result.ratio:.2f} | {result.against_published:.2f} "
            f"| {case.published_sync_s} → {case.published_async_s} "
            f"| {result.synchronous.step_s:.1f} → {result.asynchronous.step_s:.1f} "
            f"| {pair.asynchronous.num_engines} engines of {pair.synchronous.num_engines} "
            f"| {1000 * pair.synchronous.decode.step_s(1):.1f} ms "
            f"| {result.asynchronous.share_of_bound:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
