"""An older simulation, done again: what asynchrony wins where splitting the machine alone wins nothing.

Given a tail and the share of generation in a synchronous step; gives the bound and the speedups over the synchronous
loop on the whole machine. 512 samples a step, a place for each, the same decode rate in every place, learner and places
in proportion to their share of the machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from raylign.jobs.simulation.loop import run_simulation
from raylign.jobs.simulation.rates import P99_OF_NORMAL, DecodeCurve, LognormalLengths, Setting
from raylign.jobs.simulation.result import predict

NUM_SAMPLES = 512
MEDIAN_TOKENS = 1000
CUT_AT = 2.84
"""Lengths are cut at this many standard deviations. The older simulation does not say where it cuts; with this one
number the bounds of all four rows come out, and the speedups are held against it."""


@dataclass(frozen=True)
class Anchor:
    """One row."""

    tail: float
    """p99 ÷ median."""
    generation_share: float
    """Of a synchronous step."""
    published: tuple[float, float, float, float]
    """Bound; η = 1 with drain before updates; η = 1 with updates in flight; η = 2 with updates in flight."""
    generating: tuple[float, float, float]
    """Share of the machine that generates, for each speedup: the best of 0.1, 0.125 … 0.95."""


ANCHORS = (
    Anchor(3, 0.7, (1.98, 1.22, 1.65, 1.90), (0.6, 0.375, 0.425)),
    Anchor(3, 0.5, (1.55, 1.27, 1.37, 1.48), (0.325, 0.225, 0.25)),
    Anchor(10, 0.7, (2.67, 1.37, 2.44, 2.62), (0.5, 0.2, 0.2)),
    Anchor(10, 0.5, (1.81, 1.53, 1.72, 1.77), (0.2, 0.1, 0.1)),
)


def speedups(anchor: Anchor, num_steps: int = 40) -> list[float]:
    """In the order of `Anchor.published`."""
    sigma = math.log(anchor.tail) / P99_OF_NORMAL
    lengths = LognormalLengths(MEDIAN_TOKENS, anchor.tail, round(MEDIAN_TOKENS * math.exp(sigma * CUT_AT)))
    longest = lengths.draw(np.random.default_rng(5), (400, NUM_SAMPLES)).max(axis=1).mean()
    train_s = longest * (1 - anchor.generation_share) / anchor.generation_share  # a decode step takes 1 s
    machine = Setting(
        num_engines=1,
        max_num_seqs=NUM_SAMPLES,
        groups_per_step=NUM_SAMPLES,
        num_completions=1,
        num_steps=num_steps,
        max_staleness=0,
        decode=DecodeCurve({1: 1.0}),
        lengths=lengths,
        learner_tokens_per_s=lengths.mean * NUM_SAMPLES / train_s,
        takes_turns=True,
    )
    sync_s = predict(run_simulation(machine)).step_s
    result = [sync_s / (lengths.mean + train_s)]
    for share, max_staleness, in_flight in zip(anchor.generating, (1, 1, 2), (False, True, True), strict=True):
        split = replace(
            machine,
            max_num_seqs=round(NUM_SAMPLES * share),
            learner_tokens_per_s=machine.learner_tokens_per_s * (1 - share),
            max_staleness=max_staleness,
            in_flight=in_flight,
            takes_turns=False,
        )
        result.append(sync_s / predict(run_simulation(split)).step_s)
    return result
