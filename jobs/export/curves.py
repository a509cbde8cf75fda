"""Curves of a run as a plain picture, for a page that runs no scripts.

Given the figures of a report (`jobs/report/charts.py`); gives one SVG for each, in ink that is readable on white and on
near-black.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from raylign.jobs.report.charts import Chart

WIDTH, HEIGHT = 460, 240
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 44, 28
INK = "#7d8a99"


def svg_of_figure(chart: Chart, figure: dict[str, Any]) -> str:
    """Lines and an axis with its least and its largest value. Stacked parts are drawn as lines beside each other."""
    traces = [trace for trace in figure["data"] if trace["x"]]
    xs = [x for trace in traces for x in trace["x"]]
    ys = [_height(chart, y) for trace in traces for y in trace["y"]]
    x_range, y_range = (min(xs), max(xs)), (min(ys), max(ys))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="sans-serif" font-size="11" fill="{INK}">',
        f'<text x="{LEFT}" y="14" font-size="13">{escape(chart.title)}</text>',
        f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" fill="none" stroke="{INK}"/>',
    ]
    for y, place in ((y_range[1], TOP), (y_range[0], HEIGHT - BOTTOM)):
        value = 10**y if chart.log else y
        lines.append(f'<text x="{LEFT - 6}" y="{place + 4}" text-anchor="end">{value:.3g}</text>')
    for x, anchor, place in ((x_range[0], "start", LEFT), (x_range[1], "end", WIDTH - RIGHT)):
        lines.append(f'<text x="{place}" y="{HEIGHT - BOTTOM + 14}" text-anchor="{anchor}">{x:g}</text>')
    lines.append(f'<text x="{(LEFT + WIDTH) // 2}" y="{HEIGHT - 4}" text-anchor="middle">step</text>')
    lines += [line for trace in traces for line in _curve(chart, trace, x_range, y_range)]
    return "\n".join([*lines, *_legend(traces), "</svg>"]) + "\n"


def _height(chart: Chart, value: float) -> float:
    return math.log10(value) if chart.log else value


def _curve(
    chart: Chart, trace: dict[str, Any], x_range: tuple[float, float], y_range: tuple[float, float]
) -> list[str]:
    points = [
        (
            _scaled(x, x_range, LEFT, WIDTH - RIGHT),
            _scaled(_height(chart, y), y_range, HEIGHT - BOTTOM, TOP),
        )
        for x, y in zip(trace["x"], trace["y"], strict=True)
    ]
    colour, opacity = trace["line"]["color"], trace.get("opacity", 1)
    if len(points) == 1:
        return [f'<circle cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="2.5" fill="{colour}"/>']
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6" opacity="{opacity}"/>']


def _scaled(value: float, span: tuple[float, float], start: float, end: float) -> float:
    low, high = span
    return (start + end) / 2 if high == low else start + (value - low) / (high - low) * (end - start)


def _legend(traces: Sequence[dict[str, Any]]) -> list[str]:
    named = [trace for trace in traces if trace.get("showlegend", True)]
    lines, x = [], LEFT
    for trace in named if len(named) > 1 else []:
        lines.append(f'<rect x="{x}" y="24" width="9" height="9" fill="{trace["line"]["color"]}"/>')
        lines.append(f'<text x="{x + 13}" y="32">{escape(trace["name"])}</text>')
        x += 24 + 6 * len(trace["name"])
    return lines
