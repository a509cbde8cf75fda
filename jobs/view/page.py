"""The viewer's page: which folders, which of five views, and the view.

Given folders; shows them with streamlit. It reads files and writes none; texts of data and models are shown as texts,
never as HTML or markdown, whatever stands in them. `raylign view` runs this file.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import streamlit as st

from raylign.jobs.view.folders import Found, find_folders
from raylign.jobs.view.runs import RunRow, run_rows

View = Callable[[Sequence[Found], Sequence[RunRow]], None]
VIEWS = {
    "Table": "show_table:show_table",
    "Parameters": "show_table:show_parameters",
    "Curves": "show_curves:show_curves",
    "Samples": "show_samples:show_samples",
    "Data": "show_data:show_data",
}
"""Module and function: the first page does not wait for what the others need."""

STYLE = "<style>.block-container { padding-top: 2.5rem; } section.stSidebar { max-width: 16rem; }</style>"


def show(folders: Sequence[str]) -> None:
    """One look at the files as they are now."""
    st.set_page_config(page_title="raylign", layout="wide")
    st.html(STYLE)
    roots = [Path(folder) for folder in folders]
    found = find_folders(roots)
    rows = run_rows(found)
    with st.sidebar:
        view = st.radio("View", list(VIEWS), key="view", bind="query-params")
        st.button("Read again", key="again", help="Runs that go on have new lines")
        st.text(f"{len(rows)} runs in {len(found)} folders")
        for root in roots:
            st.text(str(root) + ("" if root.is_dir() else " is not there"))
    unread = sum(each.kind == "run" for each in found) - len(rows)
    if unread:
        st.text(f"{unread} runs are not shown: their config.yaml is not there (yet), or is cut off.")
    if not found:
        st.text("There is no run, evaluation, comparison, sweep or data job in these folders.")
        return
    _view(view)(found, rows)


def _view(name: str) -> View:
    module, _, function = VIEWS[name].partition(":")
    view: View = getattr(importlib.import_module(f"raylign.jobs.view.{module}"), function)
    return view


if __name__ == "__main__":
    show(sys.argv[1:])
