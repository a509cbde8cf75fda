"""Curves of several runs in one chart: any metric over steps, tokens or wall time.

Given metric lines; gives Plotly figures as plain dictionaries. Which metrics go together, the report's charts say.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Literal

from raylign.jobs.report.charts import CHARTS, COLOURS, Chart, Line, moving_mean, thinned, values_of
from raylign.jobs.view.files import read_as, read_lines

Axis = Literal["steps", "tokens", "wall time"]
AXES: tuple[Axis, ...] = ("steps", "tokens", "wall time")
UNITS = {"steps": "step", "tokens": "tokens", "wall time": "hours"}
TOKENS_OF_A_STEP = ("rollout/tokens", "learner/num_tokens")
DASHES = ("solid", "dot", "dash", "dashdot", "longdash")


def metric_lines(folder: Path) -> list[dict[str, Any]]:
    """Of a run, finished or not."""
    return read_lines(folder / "metrics.jsonl")


def metric_keys(folder: Path) -> list[str]:
    """Those that a run has, without reading all of it: the first lines and the last one name them."""
    return read_as(folder / "metrics.jsonl", "keys", _keys) or []


def charts_with_data(keys: Sequence[str]) -> list[Chart]:
    """Of the report's charts, those that these metrics fill."""
    return [chart for chart in CHARTS if any(key in keys for key, _ in chart.series)]


def chart_of_metric(key: str) -> Chart:
    """A metric by itself."""
    return next((chart for chart in CHARTS if [each for each, _ in chart.series] == [key]), Chart(key, ((key, key),)))


def figure(
    chart: Chart, runs: Mapping[str, Sequence[Line]], axis: Axis = "steps", smoothed_over: int = 0
) -> dict[str, Any] | None:
    """A colour for each run, a kind of line for each series; None where no run has any of them.

    `smoothed_over`: points on both sides that a mean is taken over.
    """
    traces = []
    for colour, (name, lines) in zip(itertools.cycle(COLOURS), runs.items(), strict=False):
        places = places_on(axis, lines)
        for dash, (key, label) in zip(itertools.cycle(DASHES), chart.series, strict=False):
            steps, values = values_of(lines, key)
            if chart.log:
                kept = [(step, value) for step, value in zip(steps, values, strict=True) if value > 0]
                steps, values = [step for step, _ in kept], [value for _, value in kept]
            if not values:
                continue
            shown = moving_mean(values, smoothed_over) if smoothed_over else values
            at, shown = thinned([places.get(step, step) for step in steps], shown)
            title = name if len(chart.series) == 1 else f"{name}: {label}"
            traces.append(
                {
                    "type": "scatter",
                    "x": at,
                    "y": shown,
                    # Plotly reads some tags in texts; a name is a name
                    "name": escape(title, quote=False),
                    "mode": "lines" if len(values) > 1 else "markers",
                    "line": {"color": colour, "dash": dash, "width": 2},
                }
            )
    if not traces:
        return None
    vertical = {
        "title": {"text": chart.unit},
        "tickformat": chart.tick_format,
        "type": "log" if chart.log else "linear",
    }
    layout = {
        "xaxis": {"title": {"text": UNITS[axis]}},
        "yaxis": vertical,
        "showlegend": True,
        "legend": {"orientation": "h", "y": -0.25},
        "margin": {"l": 60, "r": 20, "t": 20, "b": 40},
        "height": 460,
    }
    return {"data": traces, "layout": layout}


def places_on(axis: Axis, lines: Sequence[Line]) -> dict[float, float]:
    """Where each step stands on the axis."""
    if axis == "steps":
        return {}
    if axis == "wall time":
        steps, seconds = values_of(lines, "seconds")
        return {step: each / 3600 for step, each in zip(steps, seconds, strict=True)}
    key = next((each for each in TOKENS_OF_A_STEP if any(line.get(each) is not None for line in lines)), None)
    total, places = 0.0, {}
    for line in lines:
        total += float(line.get(key) or 0.0) if key else 0.0
        places[float(line.get("step", 0))] = total
    return places


def _keys(path: Path) -> list[str]:
    keys: dict[str, None] = {}
    for line in read_lines(path):
        keys |= dict.fromkeys(line)
    return sorted(keys.keys() - {"step"})
