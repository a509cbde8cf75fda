"""The charts of a report: which metrics go together, and how they are drawn.

Given the metric lines of a run; gives Plotly figures as plain dictionaries, without colours of light or dark
(the page sets those). A chart without data is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raylign.jobs.run.metrics import describe

COLOURS = ("#3d7fc1", "#d9822b", "#3f9c6b", "#9a6bc0", "#c2556b", "#7d8a99")
"""Readable on white and on near-black."""
MAX_POINTS = 1500
"""Longer runs are thinned evenly, first and last step kept."""
SMOOTHED_FROM = 40
"""Series of at least this many points get a moving mean, the points themselves pale behind it."""

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Chart:
    """One chart: a title and its series as (metric key, label)."""

    title: str
    series: tuple[tuple[str, str], ...]
    unit: str = ""
    tick_format: str = ""
    log: bool = False
    stacked: bool = False
    smoothed: bool = True
    """False for a schedule: it is no noise."""
    is_missed: bool = True
    """False where a run without it lacks nothing."""
    always_shown: tuple[float, ...] = (0.0,)
    """Values that the axis covers whatever the data; a constant series would get a meaningless scale."""
    each: str = ""
    """A metric of several names, each a series of its own: `reward/<name>/mean`."""


CHARTS: tuple[Chart, ...] = (
    Chart("Reward", (("reward/mean", "total"),), "reward", always_shown=(), each="reward/<name>/mean"),
    Chart(
        "Accuracy",
        (("rollout/accuracy", "training prompts"), ("evaluation/accuracy", "held-out prompts")),
        "share of completions",
        ".0%",
    ),
    Chart(
        "Pairs ranked right",
        (("preference/accuracy", "training pairs"), ("evaluation/reward_accuracy", "held-out pairs")),
        "share of pairs",
        ".0%",
        each="evaluation/pairs/<name>/reward_accuracy",
    ),
    Chart(
        "Margin between chosen and rejected",
        (("preference/margin", "training pairs"), ("evaluation/reward_margin", "held-out pairs")),
        "nats",
    ),
    Chart("Held-out reward", (("evaluation/reward_mean", "mean"),), "reward", always_shown=()),
    Chart(
        "Log-probs of answers",
        (("preference/chosen_logp", "chosen"), ("preference/rejected_logp", "rejected")),
        "nats an answer",
        always_shown=(),
    ),
    Chart(
        "Parts of the loss of BoNBoN",
        (("bonbon/sft_loss", "likelihood of the best"), ("bonbon/contrastive_loss", "contrast with the worst")),
        "loss",
        log=True,
    ),
    Chart(
        "Pairs turned around",
        (("sail/swapped_share", "label drawn the other way"), ("sail/reversed_share", "gradient reversed, F < −1/c")),
        "share of pairs",
        ".0%",
    ),
    Chart(
        "Completion length",
        (
            ("rollout/completion_length_mean", "mean"),
            ("rollout/completion_length_p90", "nine of ten below"),
            ("rollout/completion_length_max", "largest"),
        ),
        "tokens",
    ),
    Chart("Spread of the total reward", (("reward/std", "standard deviation"),), "reward"),
    Chart(
        "Share without signal",
        (
            ("reward/zero_variance_share", "equal rewards"),
            ("rollout/truncated_share", "cut at the limit"),
            ("reward/failure_share", "not scored"),
        ),
        "share",
        ".0%",
    ),
    Chart("Loss", (("learner/loss", "loss"),), "", always_shown=()),
    Chart(
        "Losses of both levels",
        (
            ("selection/upper_loss", "trusted rows"),
            ("selection/lower_loss", "weighed rows"),
            ("selection/weighted_lower_loss", "weighed rows, times their weights"),
        ),
        "nats",
        always_shown=(),
    ),
    Chart(
        "Weights of all rows",
        (
            ("selection/weight_min", "least"),
            ("selection/weight_low_quarter", "a quarter below"),
            ("selection/weight_median", "median"),
            ("selection/weight_high_quarter", "a quarter above"),
            ("selection/weight_max", "largest"),
        ),
        "weight",
    ),
    Chart("KL to the reference", (("learner/kl", "KL"),), "nats per token"),
    Chart("Entropy", (("learner/entropy", "entropy"),), "nats per token"),
    Chart("Gradient norm", (("learner/grad_norm", "before clipping"),), ""),
    Chart(
        "Clipped tokens",
        (("learner/clip_fraction_low", "from below"), ("learner/clip_fraction_high", "from above")),
        "share",
        ".1%",
    ),
    Chart(
        "Engine and learner mismatch",
        (("mismatch/mean_abs_logp_difference", "mean"), ("mismatch/max_abs_logp_difference", "largest")),
        "|Δ log-prob|",
        ".0e",
        log=True,
    ),
    Chart(
        "Effective sample size",
        (
            ("mismatch/effective_sample_size_share", "effective share"),
            ("mismatch/weighted_sample_size_share", "with the correction's weights"),
        ),
        "share of tokens",
        ".1%",
        always_shown=(0.95, 1.0),
    ),
    Chart("Staleness", (("staleness/mean", "mean"), ("staleness/max", "largest")), "weight versions"),
    Chart(
        "Tokens by staleness",
        tuple((f"staleness/share_{age}", f"{age} old") for age in range(5)),
        "share of trained tokens",
        ".0%",
        stacked=True,
    ),
    Chart(
        "Throughput",
        (("rollout/tokens_per_s", "generated"), ("learner/tokens_per_s", "learned from")),
        "tokens/s",
        ",",
    ),
    Chart("Pause for new weights", (("weights/pause_s", "generation stands still"),), "seconds"),
    Chart("Engines", (("rollout/engines", "mean over the step"),), "engines", smoothed=False, is_missed=False),
    Chart("Idle shares", (("idle/rollout_share", "engines"), ("idle/learner_share", "learner")), "share", ".0%"),
    Chart(
        "A step, as the learner sees it",
        (
            ("time/wait_s", "waiting for groups"),
            ("time/learner_s", "learning"),
            ("time/weights_s", "sending weights"),
        ),
        "seconds per step",
        stacked=True,
    ),
    Chart("Learning rate", (("learner/learning_rate", "learning rate"),), "", ".1e", smoothed=False),
)


def values_of(lines: Sequence[Line], key: str) -> tuple[list[float], list[float]]:
    """Steps and values of one metric, where it has one."""
    found = [(line.get("step", 0), line[key]) for line in lines if line.get(key) is not None]
    return [float(step) for step, _ in found], [float(value) for _, value in found]


def figures(lines: Sequence[Line]) -> tuple[list[tuple[Chart, dict[str, Any]]], list[str]]:
    """The charts that have data with their figures, and the titles of those that have none."""
    drawn: list[tuple[Chart, dict[str, Any]]] = []
    missing: list[str] = []
    for chart in CHARTS:
        figure = _figure(chart, lines)
        if figure is None:
            missing += [chart.title] if chart.is_missed else []
        else:
            drawn.append((chart, figure))
    return drawn, missing


def caption(chart: Chart) -> str:
    """What the chart's metrics mean, from the list of metrics."""
    meanings = (metric.meaning for key, _ in chart.series if (metric := describe(key)))
    return " ".join(dict.fromkeys(meanings))


def moving_mean(values: Sequence[float], reach: int) -> list[float]:
    """Mean of each value and up to `reach` neighbours on both sides: no lag behind the data."""
    windows = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    return [math.fsum(window) / len(window) for window in windows]


def _figure(chart: Chart, lines: Sequence[Line]) -> dict[str, Any] | None:
    series = [*chart.series, *_by_name(chart.each, lines)]
    traces: list[dict[str, Any]] = []
    for colour, (key, label) in zip(COLOURS * 3, series, strict=False):
        steps, values = thinned(*values_of(lines, key))
        if chart.log:
            # zero has no place on a log axis
            kept = [(step, value) for step, value in zip(steps, values, strict=True) if value > 0]
            steps, values = [step for step, _ in kept], [value for _, value in kept]
        if values:
            traces += _traces(chart, key, label, colour, steps, values, lines)
    if not traces:
        return None
    axis = {"title": {"text": chart.unit, "font": {"size": 12}}, "tickformat": chart.tick_format}
    axis |= _range(chart, traces)
    named = sum(trace.get("showlegend", True) for trace in traces)
    return {"data": traces, "layout": {"yaxis": axis, "showlegend": named > 1}}


def _range(chart: Chart, traces: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Whole decades on a log axis; elsewhere the data, what is always shown, and a little air."""
    if chart.stacked:
        return {"rangemode": "tozero"}
    values = [value for trace in traces for value in trace["y"]]
    if chart.log:
        low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        return {"type": "log", "dtick": 1 + (high - low) // 6, "range": [low, max(high, low + 1)]}
    for trace in traces:
        bars = trace.get("error_y", {"array": [], "arrayminus": []})
        values += [y + above for y, above in zip(trace["y"], bars["array"], strict=False)]
        values += [y - below for y, below in zip(trace["y"], bars["arrayminus"], strict=False)]
    low_end, high_end = min([*values, *chart.always_shown]), max([*values, *chart.always_shown])
    air = 0.05 * ((high_end - low_end) or abs(high_end) or 1.0)
    return {"range": [low_end if low_end == 0.0 else low_end - air, high_end + air]}


def _by_name(each: str, lines: Sequence[Line]) -> list[tuple[str, str]]:
    """A series for each name; one alone is what the chart shows already: of one reward the total, up to its weight."""
    before, _, after = each.partition("<name>")
    names = {
        key[len(before) : len(key) - len(after)]
        for line in lines
        for key in line
        if each and key.startswith(before) and key.endswith(after) and len(key) > len(before) + len(after)
    }
    # `reward/bleu/words/mean` is a part of `bleu` and in another unit
    own = sorted(name for name in names if not any(name.startswith(f"{other}/") for other in names))
    return [(f"{before}{name}{after}", name) for name in own] if len(own) > 1 else []


def _traces(
    chart: Chart,
    key: str,
    label: str,
    colour: str,
    steps: list[float],
    values: list[float],
    lines: Sequence[Line],
) -> list[dict[str, Any]]:
    trace: dict[str, Any] = {"x": steps, "y": values, "name": label, "mode": "lines"}
    trace |= {"line": {"color": colour, "width": 2}}
    if chart.stacked:
        return [trace | {"stackgroup": "all", "line": {"color": colour, "width": 0.5}}]
    if key == "evaluation/accuracy":
        return [trace | {"mode": "lines+markers", "error_y": _interval(steps, values, lines, colour)}]
    if len(values) < SMOOTHED_FROM or not chart.smoothed:
        return [trace | {"mode": "lines+markers", "marker": {"size": 4}}]
    reach = max(2, len(values) // 40)
    pale = trace | {"opacity": 0.3, "line": {"color": colour, "width": 1}, "showlegend": False}
    return [pale | {"hoverinfo": "skip"}, trace | {"y": moving_mean(values, reach)}]


def _interval(steps: Sequence[float], values: Sequence[float], lines: Sequence[Line], colour: str) -> dict[str, Any]:
    low = dict(zip(*values_of(lines, "evaluation/accuracy_low"), strict=True))
    high = dict(zip(*values_of(lines, "evaluation/accuracy_high"), strict=True))
    points = list(zip(steps, values, strict=True))
    return {
        "type": "data",
        "symmetric": False,
        "array": [high.get(step, value) - value for step, value in points],
        "arrayminus": [value - low.get(step, value) for step, value in points],
        "color": colour,
        "thickness": 1.2,
        "width": 4,
    }


def thinned(steps: list[float], values: list[float]) -> tuple[list[float], list[float]]:
    """At most `MAX_POINTS` of them."""
    if len(values) <= MAX_POINTS:
        return steps, values
    kept = [round(i * (len(values) - 1) / (MAX_POINTS - 1)) for i in range(MAX_POINTS)]
    return [steps[i] for i in kept], [values[i] for i in kept]
