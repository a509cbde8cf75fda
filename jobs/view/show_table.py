"""The viewer's table of runs, and its heat map of two parameters.

Given rows of runs; shows them, filtered and over seeds as the reader chooses.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

import pandas as pd
import streamlit as st

from raylign.jobs.view.folders import Found
from raylign.jobs.view.runs import NUMBERS, RunRow
from raylign.jobs.view.tables import (
    AGGREGATES,
    HeatMap,
    aggregated,
    filter_choices,
    filtered,
    heat_map,
    plain_share,
    swept,
    table_lines,
)


def show_table(found: Sequence[Found], rows: Sequence[RunRow]) -> None:
    """Filters, table, files to take away."""
    if not rows:
        st.text("No training run here.")
        return
    lines = table_lines(rows)
    choices = filter_choices(lines)
    places = st.columns(4)
    wanted = {
        column: places[index % 4].multiselect(column, cells, key=f"filter {column}", format_func=str)
        for index, (column, cells) in enumerate(choices.items())
    }
    how = st.radio("Over seeds", AGGREGATES, horizontal=True, key="aggregate")
    kept = [(row, line) for row, line in zip(rows, lines, strict=True) if filtered([line], wanted)]
    shown = aggregated([row for row, _ in kept], [line for _, line in kept], how)
    st.text(f"{len(kept)} of {len(rows)} runs" + (f", {len(shown)} lines" if len(shown) != len(kept) else ""))
    frame = pd.DataFrame(shown).dropna(axis="columns", how="all")
    formats = {name: st.column_config.NumberColumn(format="%.4g") for name in NUMBERS}
    st.dataframe(frame, hide_index=True, key="table", column_config=formats)
    as_csv, as_json, _ = st.columns([1, 1, 6])
    as_csv.download_button("CSV", frame.to_csv(index=False), "runs.csv", "text/csv", key="csv")
    as_json.download_button("JSON", json.dumps(shown, default=str), "runs.json", "application/json", key="json")


def show_parameters(found: Sequence[Found], rows: Sequence[RunRow]) -> None:
    """A number at each point of two parameters."""
    tasks = sorted({(row.tag, row.task) for row in rows if row.parameters})
    if not tasks:
        st.text("No parameters: no sweep here, and no runs of one folder whose configs differ.")
        return
    tag, task = st.selectbox("Runs", tasks, format_func=" · ".join, key="task")
    chosen = [row for row in rows if (row.tag, row.task) == (tag, task)]
    labels = swept(chosen) or sorted({label for row in chosen for label in row.parameters})
    across_place, down_place, number_place = st.columns(3)
    across = across_place.selectbox("Across", labels, key="across")
    others = [label for label in labels if label != across] or labels
    down = down_place.selectbox("Down", others, key="down")
    own = [name for name in NUMBERS if any(row.column(name) is not None for row in chosen)]
    others_found = sorted({name for row in chosen for name in row.numbers})
    if not own and not others_found:
        st.text("None of these runs has a number yet.")
        return
    first = own.index("win rate") if "win rate" in own else 0
    number = number_place.selectbox("Number", [*own, *others_found], index=first, key="number")
    unstretch = False
    if number == "duration (s)" and any(plain_share(row) < 1 for row in chosen):
        unstretch = st.checkbox("undo the stretch of epochs by rows that routes take", key="unstretch")
    found_map = heat_map(chosen, across, down, number, unstretch)
    st.plotly_chart(_figure(found_map, across, down, number), key="heat map")
    st.text("Means over runs that share a point; empty where there is none.")
    points = [
        {across: x, down: y, number: cell, "runs": count}
        for y, cells, counts in zip(found_map.down, found_map.cells, found_map.counts, strict=True)
        for x, cell, count in zip(found_map.across, cells, counts, strict=True)
    ]
    st.download_button("JSON", json.dumps(points, default=str), "parameters.json", "application/json", key="points")


def _figure(found: HeatMap, across: str, down: str, number: str) -> dict[str, Any]:
    texts = [["" if cell is None else f"{cell:.4g}" for cell in line] for line in found.cells]
    trace = {
        "type": "heatmap",
        "x": [_name(value) for value in found.across],
        "y": [_name(value) for value in found.down],
        "z": found.cells,
        "text": texts,
        "texttemplate": "%{text}",
        "colorscale": "Blues",
        "hovertemplate": "%{x}, %{y}: %{text}<extra></extra>",
        "colorbar": {"title": {"text": _name(number)}},
    }
    axis = {"type": "category"}
    return {
        "data": [trace],
        "layout": {
            "xaxis": axis | {"title": {"text": _name(across)}},
            "yaxis": axis | {"title": {"text": _name(down)}},
            "height": 460,
            "margin": {"l": 80, "r": 20, "t": 20, "b": 60},
        },
    }


def _name(value: Any) -> str:
    """Plotly reads some tags in texts; a name is a name."""
    return escape(str(value), quote=False)
