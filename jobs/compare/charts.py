"""Win rate against KL and against length: what a policy won, and what it paid.

Given points (one for each comparison and decider); gives Plotly figures as plain dictionaries, with the closed forms of
best-of-n and of the best tilt beside them, and one page that holds both and fetches nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from raylign.jobs.report.charts import COLOURS
from raylign.jobs.report.page import number, page, percent, table
from raylign.jobs.run.folder import write_atomically
from raylign.learners.losses.best_of_n_theory import best_of_n_kl, best_of_n_win_rate, best_win_rate_at_kl

SIZES = (2, 3, 4, 6, 8, 16, 32, 64, 128)
"""n of the marks on the curve of best-of-n."""
CURVE_POINTS = 60
LEAST_KL = 1.3
"""The axis reaches at least a little beyond best of 8."""
INK, GRID = "#7d8a99", "rgba(125,138,153,0.25)"
"""Readable on white and on near-black."""


@dataclass(frozen=True)
class ComparisonPoint:
    """One new model against one reference, by one decider."""

    label: str
    win_rate: float
    """Ties count half."""
    low: float
    high: float
    kl: float | None = None
    """KL(new‖reference) in nats per answer; None: not measured, so it is in no chart against KL."""
    kl_error: float | None = None
    length: float | None = None
    """Mean length of the new model's answers."""
    reference_length: float | None = None
    length_unit: str = "tokens"


def points_of_folder(folder: Path) -> list[ComparisonPoint]:
    """The points of one comparison: by reward, by judge, or both."""
    path = folder / "comparison.json"
    if not path.is_file():
        raise ValueError(f"{folder} holds no comparison.json; give the folder of a finished `raylign compare`")
    try:
        return _points(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: not what `raylign compare` writes ({type(error).__name__}: {error})") from None


def _points(found: dict[str, Any]) -> list[ComparisonPoint]:
    new, reference, kl = found["new"], found["reference"], found["kl"] or {}
    in_tokens = new["mean_tokens"] is not None and reference["mean_tokens"] is not None
    length_key = "mean_tokens" if in_tokens else "mean_characters"
    return [
        ComparisonPoint(
            label=f"{new['label']} against {reference['label']}, by {by}",
            win_rate=rates["win_rate"],
            low=rates["win_rate_low"],
            high=rates["win_rate_high"],
            kl=kl.get("mean"),
            kl_error=kl.get("standard_error"),
            length=new[length_key],
            reference_length=reference[length_key],
            length_unit="tokens" if in_tokens else "characters",
        )
        for by in ("reward", "judge")
        if (rates := found[f"by_{by}"]) is not None and rates["win_rate"] is not None
    ]


def win_rate_versus_kl_chart(points: Sequence[ComparisonPoint]) -> dict[str, Any]:
    """Points with their intervals under the closed forms; nothing lies above the tilt but by chance."""
    measured = [point for point in points if point.kl is not None]
    end = 1.1 * max([LEAST_KL, *(point.kl for point in measured if point.kl is not None)])
    kls = [end * step / CURVE_POINTS for step in range(CURVE_POINTS + 1)]
    sizes = [n for n in SIZES if best_of_n_kl(n) <= end]
    curves: list[dict[str, Any]] = [
        {
            "x": kls,
            "y": [best_win_rate_at_kl(kl) for kl in kls],
            "name": "best tilt (theory)",
            "mode": "lines",
            "line": {"color": INK, "width": 1.5, "dash": "dot"},
        },
        {
            "x": [0.0, *map(best_of_n_kl, sizes)],
            "y": [0.5, *map(best_of_n_win_rate, sizes)],
            "text": ["", *(f"n = {n}" for n in sizes)],
            "textposition": "bottom right",
            "name": "best of n (theory)",
            "mode": "lines+markers+text",
            "line": {"color": INK, "width": 1.5},
        },
    ]
    marks = [
        _mark(index, point, point.kl or 0.0) | {"error_x": {"type": "data", "array": [1.96 * (point.kl_error or 0)]}}
        for index, point in enumerate(measured)
    ]
    low = min([0.5, *(point.low for point in measured)])
    return {
        "data": [*curves, *marks],
        "layout": _layout("KL(new‖reference), nats per answer", [low - 0.03, 1.0]),
    }


def win_rate_versus_length_chart(points: Sequence[ComparisonPoint]) -> dict[str, Any] | None:
    """Each new model beside the length of its reference, at ½: a win that comes with length is suspect. None where no
    length is known, or they are not in one unit."""
    known = [point for point in points if point.length is not None]
    if not known or len({point.length_unit for point in known}) > 1:
        return None
    references = sorted({point.reference_length for point in known if point.reference_length is not None})
    stand = {
        "x": references,
        "y": [0.5] * len(references),
        "name": "reference",
        "mode": "markers",
        "marker": {"color": INK, "symbol": "x", "size": 9},
    }
    marks = [_mark(index, point, point.length or 0.0) for index, point in enumerate(known)]
    low = min([0.5, *(point.low for point in known)])
    return {"data": [stand, *marks], "layout": _layout(f"mean length, {known[0].length_unit}", [low - 0.03, 1.0])}


def write_comparison_page(path: Path, title: str, folders: Sequence[Path]) -> None:
    """Table and charts of all comparisons in `folders`."""
    from plotly.io import to_html

    points = [point for folder in folders for point in points_of_folder(folder)]
    rows = [
        [
            escape(point.label),
            percent(point.win_rate),
            f"{percent(point.low)} – {percent(point.high)}",
            "–" if point.kl is None else number(point.kl),
            "–" if point.kl is None else percent(best_win_rate_at_kl(max(0.0, point.kl))),
            "–" if point.length is None else f"{number(point.length)} {point.length_unit}",
            "–" if point.reference_length is None else number(point.reference_length),
        ]
        for point in points
    ]
    header = ["comparison", "win rate", "95 % interval", "KL", "most at this KL", "length", "of the reference"]
    charts = {
        "Win rate against KL": win_rate_versus_kl_chart(points),
        "Win rate against length": win_rate_versus_length_chart(points),
    }
    drawn = {name: figure for name, figure in charts.items() if figure is not None}
    figures = [
        f"<h2>{escape(name)}</h2>"
        + to_html(figure, full_html=False, include_plotlyjs=index == 0, config={"displayModeBar": False})
        for index, (name, figure) in enumerate(drawn.items())
    ]
    body = f"<h1>{escape(title)}</h1><p class=soft>Ties count half.</p>" + table(header, rows) + "".join(figures)
    write_atomically(path, page(title, body, {}))


def _mark(index: int, point: ComparisonPoint, x: float) -> dict[str, Any]:
    colour = COLOURS[index % len(COLOURS)]
    return {
        "x": [x],
        "y": [point.win_rate],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [point.high - point.win_rate],
            "arrayminus": [point.win_rate - point.low],
        },
        "name": point.label,
        "mode": "markers",
        "marker": {"color": colour, "size": 10},
    }


def _layout(x_title: str, y_range: list[float]) -> dict[str, Any]:
    axis = {"gridcolor": GRID, "zerolinecolor": GRID, "automargin": True}
    return {
        "height": 420,
        "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": INK, "size": 12},
        "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
        "xaxis": axis | {"title": {"text": x_title}, "rangemode": "tozero"},
        "yaxis": axis | {"title": {"text": "win rate, ties half"}, "tickformat": ".0%", "range": y_range},
    }
