"""The viewer's data jobs: what was kept, what was dropped and why, scores, where rows come from, what BDR selected.

Given the folders; shows the one that the reader chooses. What stands in rows is shown as text.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from raylign.jobs.curricula.selection import SELECTION_FILE, read_selection
from raylign.jobs.report.selection import MEANINGS
from raylign.jobs.view.data_jobs import (
    dropped_counts,
    dropped_rows,
    facts_of,
    histogram,
    lineage_of,
    number_columns,
    read_rows,
    row_files,
)
from raylign.jobs.view.files import read_as
from raylign.jobs.view.folders import Found
from raylign.jobs.view.runs import RunRow
from raylign.jobs.view.show_samples import STYLE

LONGEST_SHOWN = 20_000


def show_data(found: Sequence[Found], rows: Sequence[RunRow]) -> None:
    """Data jobs, and runs with a selection."""
    folders = [each.path for each in found if each.kind == "data" or (each.path / SELECTION_FILE).is_file()]
    if not folders:
        st.text("No data job here, and no run with a selection of rows.")
        return
    folder = st.selectbox("Folder", folders, format_func=lambda path: "/".join(path.parts[-2:]), key="data folder")
    if (folder / SELECTION_FILE).is_file():
        _selection(folder)
        return
    facts = facts_of(folder)
    if facts:
        shown = {key: f"{value:.4g}" if isinstance(value, float) else str(value) for key, value in facts.items()}
        st.dataframe(pd.DataFrame([shown]), hide_index=True, key="facts")
    _dropped(folder)
    _rows(folder)


def _dropped(folder: Path) -> None:
    counts = dropped_counts(folder)
    if not counts:
        st.text("Nothing was left out.")
        return
    st.text(f"Left out: {sum(line['rows'] for line in counts)}")
    st.dataframe(pd.DataFrame(counts), hide_index=True, key="dropped")
    kept = dropped_rows(folder)
    if kept:
        with st.expander(f"The rows that were left out ({len(kept)})"):
            st.dataframe(pd.DataFrame([_flat(row) for row in kept[:1000]]), hide_index=True, key="dropped rows")


def _rows(folder: Path) -> None:
    files = row_files(folder)
    if not files:
        st.text("No rows were written (yet).")
        return
    name = st.selectbox("Rows of", list(files), key="rows of")
    rows = read_rows(files[name]) if name in files else []
    if not rows:
        st.text("No row in it (yet).")
        return
    st.text(f"{len(rows)} rows")
    columns = number_columns(rows)
    chosen = st.multiselect(
        "Histogram of", columns, default=[each for each in columns if "score" in each][:2] or columns[:1], key="columns"
    )
    if chosen:
        st.plotly_chart(histogram(rows, chosen), key="histogram")
    number = st.number_input(f"Row, 1 to {len(rows)}", 1, len(rows), 1, key="row")
    row = rows[int(number) - 1]
    if lineage := lineage_of(row):
        st.text("Where it comes from")
        st.dataframe(pd.DataFrame([_flat(lineage)]), hide_index=True, key="lineage")
    for key, value in row.items():
        if key not in lineage and key != "lineage":
            st.text(key)
            st.html(f'<pre style="{STYLE}">{escape(_words(value))}</pre>')


def _selection(folder: Path) -> None:
    rows = read_as(folder / SELECTION_FILE, "selection", lambda path: read_selection(path.parent)) or []
    if not rows:
        st.text("The selection is being written.")
        return
    counts = Counter(row["state"] for row in rows)
    lines = [{"state": state, "means": MEANINGS.get(state, ""), "rows": count} for state, count in counts.items()]
    st.dataframe(pd.DataFrame(lines), hide_index=True, key="states")
    st.plotly_chart(histogram(rows, ["weight"]), key="weights")
    state = st.selectbox("Rows that are", list(counts), key="state")
    shown = sorted((row for row in rows if row["state"] == state), key=lambda row: -row["weight"])
    if not shown:
        return
    number = st.number_input(f"Row by weight, 1 to {len(shown)}", 1, len(shown), 1, key="selected row")
    row = shown[int(number) - 1]
    st.text(f"row {row['row']}, weight {row['weight']:.4g}")
    answers = {f"answer of the policy, weight version {each['version']}": each["text"] for each in row["answers"] or ()}
    for key, value in {"prompt": row["prompt"], "response": row["response"], **answers}.items():
        st.text(key)
        st.html(f'<pre style="{STYLE}">{escape(_words(value))}</pre>')


def _flat(row: Mapping[str, Any]) -> dict[str, str]:
    return {key: _words(value) for key, value in row.items()}


def _words(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str, indent=1)
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + " …"
