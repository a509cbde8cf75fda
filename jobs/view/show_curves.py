"""The viewer's curves: metrics of several runs in one chart.

Given rows of runs; shows the chart or metric that the reader chooses, over steps, tokens or wall time.
"""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from raylign.jobs.report.charts import caption
from raylign.jobs.view.curves import AXES, chart_of_metric, charts_with_data, figure, metric_keys, metric_lines
from raylign.jobs.view.folders import Found
from raylign.jobs.view.runs import RunRow

NUM_SHOWN_AT_FIRST = 4
ONE_METRIC = "one metric …"


def show_curves(found: Sequence[Found], rows: Sequence[RunRow]) -> None:
    """Which runs, which chart, over what."""
    if not rows:
        st.text("No training run here.")
        return
    places = list(range(len(rows)))
    names = labels_of(rows)
    chosen = st.multiselect(
        "Runs", places, default=places[:NUM_SHOWN_AT_FIRST], format_func=lambda place: names[place], key="curve runs"
    )
    if not chosen:
        st.text("Choose a run.")
        return
    keys = sorted({key for place in chosen for key in metric_keys(rows[place].path)})
    if not keys:
        st.text("No step has finished yet.")
        return
    charts = {chart.title: chart for chart in charts_with_data(keys)}
    left, middle, right = st.columns(3)
    title = left.selectbox("Chart", [*charts, ONE_METRIC], key="chart")
    is_one = title == ONE_METRIC
    chart = chart_of_metric(left.selectbox("Metric", keys, key="metric")) if is_one else charts[title]
    axis = middle.selectbox("Over", AXES, key="axis")
    smoothed = right.slider("Smoothed over so many points on both sides", 0, 50, 0, key="smoothed")
    drawn = figure(chart, {names[place]: metric_lines(rows[place].path) for place in chosen}, axis, smoothed)
    if drawn is None:
        st.text("None of these runs has this metric (yet).")
        return
    st.plotly_chart(drawn, key="curves")
    st.text(caption(chart))


def labels_of(rows: Sequence[RunRow]) -> list[str]:
    """Names of runs, with their folder where two share one."""
    names = [row.name for row in rows]
    return [f"{row.name} ({row.path})" if names.count(row.name) > 1 else row.name for row in rows]
