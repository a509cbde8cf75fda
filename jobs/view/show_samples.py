"""The viewer's samples: one prompt, two runs or checkpoints side by side, words that differ marked.

Given the folders; shows pairs of answers in the order that the reader chooses. What data and models say is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import streamlit as st

from raylign.jobs.view.answers import ORDERS, Answer, answer_files, marked, paired, read_answers
from raylign.jobs.view.folders import Found
from raylign.jobs.view.runs import RunRow

STYLE = (
    "white-space:pre-wrap;overflow-wrap:anywhere;font-size:0.9rem;padding:0.6rem;border:1px solid #8884;"
    "border-radius:6px;margin:0"
)


def show_samples(found: Sequence[Found], rows: Sequence[RunRow]) -> None:
    """Two sides, an order, a place in it."""
    with_answers = [each.path for each in found if answer_files(each.path)]
    if not with_answers:
        st.text("No answers here: `evaluation/`, `samples/`, samples.jsonl, comparison.jsonl or draws.jsonl.")
        return
    left_place, right_place = st.columns(2)
    is_one_enough = len(answer_files(with_answers[0])) > 1
    with left_place:
        left_name, left = _side("Left", with_answers, 0, 0)
    with right_place:
        right_name, right = _side("Right", with_answers, 0 if is_one_enough else 1, int(is_one_enough))
    order = st.radio("Order", ORDERS, horizontal=True, key="order")
    both = paired(left, right, order)
    if not both:
        st.text(f"No prompt is answered by both: {len(left)} prompts on the left, {len(right)} on the right.")
        return
    number = st.number_input(f"Prompt, 1 to {len(both)}", 1, len(both), 1, key="place")
    one = both[int(number) - 1]
    change = "" if one.change is None else f"change {one.change:+.4g}"
    st.html(f'<pre style="{STYLE};background:#8881">{escape(one.prompt)}</pre>')
    left_place, right_place = st.columns(2)
    with left_place:
        _answer(left_name, one.left, one.right, "")
    with right_place:
        _answer(right_name, one.right, one.left, change)


def _side(label: str, folders: Sequence[Path], first_folder: int, first_file: int) -> tuple[str, dict[str, Answer]]:
    """What one side shows: a folder and one of its files. At first two of one folder where it has two, else of two."""
    index = min(first_folder, len(folders) - 1)
    folder = st.selectbox(label, folders, index=index, format_func=_short, key=f"{label} folder")
    files = answer_files(folder)
    names = list(files)
    name = st.selectbox("answers", names, index=min(first_file, len(names) - 1), key=f"{label} file")
    if name not in files:  # written anew meanwhile
        return _short(folder), {}
    return f"{_short(folder)}: {name}", read_answers(*files[name])


def _answer(name: str, answer: Answer, other: Answer, change: str) -> None:
    score = "no score" if answer.score is None else f"score {answer.score:.4g}"
    st.text(f"{name}\n{score}{f', {change}' if change else ''}")
    st.html(f'<pre style="{STYLE}">{marked(answer.text, other.text)}</pre>')


def _short(folder: Path) -> str:
    return "/".join(folder.parts[-2:])
