"""What became of a pool: counts, a table by source, lengths, and a histogram of the scores.

Given rows, answers, scores and the chosen positions; gives plain values for `summary.json`, and a picture.
"""

from __future__ import annotations

import io
import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from raylign.jobs.data.dropped import Dropped
from raylign.jobs.data.pool import Pool, PoolRow
from raylign.jobs.data.pool_answers import PoolAnswer

NUM_BINS = 50


def by_source(rows: Sequence[PoolRow], scores: Mapping[int, float], chosen: Collection[int]) -> list[dict[str, Any]]:
    """Rows, mean score and share selected of each source, the largest first."""
    table = []
    for source, count in Counter(row.source for row in rows).most_common():
        indexes = [row.index for row in rows if row.source == source]
        known = [scores[index] for index in indexes if index in scores]
        selected = sum(index in chosen for index in indexes)
        table.append(
            {
                "source": source,
                "rows": count,
                "mean_score": statistics.fmean(known) if known else None,
                "selected": selected,
                "share_selected": selected / count,
            }
        )
    return table


def counts(pool: Pool, dropped: Sequence[Dropped], chosen: Collection[int]) -> dict[str, Any]:
    """Every row that was read is counted once: kept, not selected, or dropped with its reason."""
    reasons = Counter(each.reason for each in dropped)
    return {
        "rows_read": pool.num_read,
        "rows_selected": len(chosen),
        "rows_not_selected": pool.num_read - len(dropped) - len(chosen),
        "rows_dropped": dict(reasons.most_common()),
    }


def lengths(rows: Sequence[PoolRow], answers: Mapping[int, PoolAnswer], chosen: Collection[int]) -> dict[str, Any]:
    """Mean words of answers and references, of all rows and of the selected."""
    return {
        name: {
            "mean_answer_words": _mean([_words(answers[row.index].text) for row in part if row.index in answers]),
            "mean_reference_words": _mean([_words(text) for row in part for text in row.references]),
            "mean_shortest_reference_words": _mean([min(map(_words, row.references)) for row in part]),
        }
        for name, part in (("all", rows), ("selected", [row for row in rows if row.index in chosen]))
    }


def spread(scores: Sequence[float]) -> dict[str, float] | None:
    """Mean, extremes and quartiles."""
    if not scores:
        return None
    quartiles = statistics.quantiles(scores, n=4, method="inclusive") if len(scores) > 1 else [scores[0]] * 3
    return {
        "mean": statistics.fmean(scores),
        "min": min(scores),
        "quarter": quartiles[0],
        "median": quartiles[1],
        "three_quarters": quartiles[2],
        "max": max(scores),
    }


def histogram(scores: Sequence[float], selected: Sequence[float], name: str) -> bytes:
    """A PNG: all scores, and over them the selected."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    low, high = min(scores), max(scores)
    bins = [low + (high - low or 1.0) * number / NUM_BINS for number in range(NUM_BINS + 1)]
    axes.hist(scores, bins, color="#c9d3dc", label=f"all {len(scores):,} answered rows")
    axes.hist(selected, bins, color="#3d7fc1", label=f"{len(selected):,} selected")
    axes.set_xlabel(f"{name} of the model's answer")
    axes.set_ylabel("rows")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()


def _words(text: str) -> int:
    return len(text.split())


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None
