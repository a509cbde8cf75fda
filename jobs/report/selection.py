"""The selection of a report: which rows gained weight, which lost it, which were answered anew.

Given a run folder with `selection.parquet`; gives HTML in which everything from the data and the model is escaped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from raylign.jobs.curricula.selection import SELECTION_FILE, read_selection
from raylign.jobs.report.page import folded, number, percent, table, tiles

NUM_ROWS = 12
"""Rows shown at each end."""
NUM_BINS = 12
MAX_CHARACTERS = 600
MEANINGS = {
    "kept": "would be kept: above the cut",
    "dropped": "would be dropped: below it",
    "regenerated": "question kept, answered by the policy",
}


def selection_html(folder: Path) -> str:
    """Counts, a histogram of the weights, the rows at both ends; empty where the run has no selection."""
    rows = sorted(read_selection(folder), key=lambda row: (-row["logit"], row["row"]))
    if not rows:
        return ""
    counts = Counter(row["state"] for row in rows)
    facts = [("rows", number(len(rows)))]
    facts += [(f"{state} ({MEANINGS[state]})", number(counts[state])) for state in MEANINGS if counts[state]]
    weights = np.array([row["weight"] for row in rows])
    anew = [row for row in rows if row["answers"]]
    return "\n".join(
        [
            tiles(facts),
            "<p>Distribution of the weights; all rows began with 1.</p>" + _histogram(weights),
            folded(f"The {min(NUM_ROWS, len(rows))} rows of the largest weights", _rows(rows[:NUM_ROWS]), is_open=True),
            folded(f"The {min(NUM_ROWS, len(rows))} rows of the smallest weights", _rows(rows[::-1][:NUM_ROWS])),
            folded(f"Answered anew, {min(NUM_ROWS, len(anew))} of {len(anew)}", _rows(anew[::-1][:NUM_ROWS]))
            if anew
            else "",
            f'<p class="soft small">All rows, with text and weight: {SELECTION_FILE} in the run folder.</p>',
        ]
    )


def refreshes_html(lines: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> str:
    """What the policy has answered anew so far, from the first refresh on; empty for runs that never do."""
    refreshes = [line for line in lines if line.get("refresh/rows") is not None]
    if not refreshes:
        algorithm = config.get("algorithm")
        asks = isinstance(algorithm, dict) and "generation_every_steps" in algorithm
        return "<p>No row has been answered anew yet.</p>" if asks else ""
    rows, tokens = (sum(line.get(f"refresh/{name}") or 0 for line in refreshes) for name in ("rows", "tokens"))
    last = refreshes[-1]
    times = "once" if len(refreshes) == 1 else f"in {len(refreshes)} refreshes"
    return (
        f"<p>Answered anew by the policy: {number(rows)} rows {times}, {number(tokens)} tokens; the last "
        f"{number(last['refresh/rows'])} in use since step {number(last.get('step', 0))}.</p>"
    )


def _histogram(weights: np.ndarray) -> str:
    counts, edges = np.histogram(weights, NUM_BINS)
    rows = []
    for count, low, high in zip(counts.tolist(), edges[:-1], edges[1:], strict=True):
        bar = f'<span class="bar" style="width:{count / max(counts) * 100:.1f}%;height:10px;margin:5px 0"></span>'
        rows.append([f"{low:.3g} – {high:.3g}", bar, f"{count:,} ({percent(count / len(weights))})"])
    return table(["weight", "", "rows"], rows, numbers_from=2)


def _rows(rows: Sequence[dict[str, Any]]) -> str:
    lines = "".join(
        f'<tr><td class="number">{escape(str(row["row"]))}</td><td class="number">{row["weight"]:.4g}</td>'
        f'<td><span class="tag">{escape(row["state"])}</span></td>'
        f"<td><pre>{_text(row['prompt'])}</pre></td><td><pre>{_text(row['response'])}</pre>{_answers(row)}</td></tr>\n"
        for row in rows
    )
    head = '<th class="number">row</th><th class="number">weight</th><th>state</th><th>prompt</th><th>response</th>'
    return f'<div class="wide"><table><tr>{head}</tr>\n{lines}</table></div>'


def _answers(row: dict[str, Any]) -> str:
    return "".join(
        f'<p class="soft small">answer of the policy, weight version {escape(str(answer["version"]))}</p>'
        f"<pre>{_text(answer['text'])}</pre>"
        for answer in row["answers"] or ()
    )


def _text(text: str) -> str:
    cut = f" … ({len(text) - MAX_CHARACTERS:,} more characters)" if len(text) > MAX_CHARACTERS else ""
    return escape(text[:MAX_CHARACTERS]) + cut
