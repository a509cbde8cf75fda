"""The page of a job: counts by stage, reasons of what was left out, pass counts before and after, rows to read, cost.

Given what the stages made; gives one HTML file. Everything that a model or a data set wrote is escaped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from raylign.jobs.data.dropped import Dropped
from raylign.jobs.report.page import folded, number, page, percent, table, tiles
from raylign.jobs.synthetic.rows import Row

ROWS_OF_A_KIND = 30
LONGEST_TEXT = 1500


def job_page(title: str, summary: Mapping[str, Any], rows: Sequence[Row], dropped: Sequence[Dropped]) -> str:
    """The whole file."""
    selected = set(summary["selected_ids"])
    kinds = {
        "Selected rows": [row for row in rows if row.row_id in selected],
        "Initial rows": [row for row in rows if row.stage == "initial"],
        "Harder rows": [row for row in rows if row.stage == "harder"],
        "Easier rows": [row for row in rows if row.stage == "easier"],
    }
    parts = [
        f"<h1>{escape(title)}</h1>",
        tiles(_facts(summary)),
        "<h2>Stages</h2>",
        table(["stage", "rows", "left out"], [[name, *counts] for name, counts in _counts(summary).items()]),
        "<h2>Left out</h2>",
        _reasons(dropped),
        "<h2>Right answers of the base model</h2>",
        "<h3>Initial rows</h3>",
        _histogram([row for row in rows if row.stage == "initial"]),
        "<h3>All rows, after adaptation</h3>",
        _histogram(rows),
        "<h2>Teacher</h2>",
        _usage(summary),
        "<h2>Rows</h2>",
        *(_samples(kind, of_kind) for kind, of_kind in kinds.items()),
        _dropped_samples(dropped),
    ]
    return page(title, "\n".join(parts), {})


def _facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    usage = summary["teacher"]["total"]
    return [
        ("rows selected", str(summary["num_selected"])),
        ("rows scored", str(summary["num_scored"])),
        ("solved sometimes", str(summary["num_learnable"])),
        ("teacher calls", f"{usage['num_calls']:,}"),
        ("teacher tokens", f"{usage['prompt_tokens'] + usage['completion_tokens']:,}"),
        ("cost", f"{usage['cost']:.4g}"),
    ]


def _counts(summary: Mapping[str, Any]) -> dict[str, list[str]]:
    return {stage: [str(each["rows"]), str(each["dropped"])] for stage, each in summary["stages"].items()}


def _reasons(dropped: Sequence[Dropped]) -> str:
    counts = Counter((each.stage, each.reason) for each in dropped)
    if not counts:
        return "<p>nothing</p>"
    return table(
        ["stage", "reason", "rows"],
        [[escape(stage), escape(reason), str(count)] for (stage, reason), count in counts.most_common()],
        numbers_from=2,
    )


def _histogram(rows: Sequence[Row]) -> str:
    """How many rows have k right answers."""
    if not rows:
        return "<p>no rows</p>"
    counts = Counter(row.num_right for row in rows)
    most, num_answers = max(counts.values()), max(len(row.verdicts) for row in rows)
    cells = [
        [
            f"{k} of {num_answers}",
            str(count),
            f'<div style="background:var(--accent);height:12px;min-width:2px;width:{100 * count / most:.1f}%"></div>',
        ]
        for k, count in sorted(counts.items())
    ]
    return table(["right answers", "rows", ""], cells, numbers_from=3)


def _usage(summary: Mapping[str, Any]) -> str:
    lines = [
        [
            escape(stage),
            number(each["num_calls"]),
            number(each["prompt_tokens"]),
            number(each["completion_tokens"]),
            number(each["cached_tokens"]),
            f"{each['cost']:.4g}",
        ]
        for stage, each in [*summary["teacher"]["by_stage"].items(), ("all", summary["teacher"]["total"])]
    ]
    return table(["stage", "calls", "prompt tokens", "reply tokens", "cached by the service", "cost"], lines)


def _samples(kind: str, rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    blocks = "".join(_row(row) for row in rows[:ROWS_OF_A_KIND])
    return folded(f"{kind} ({min(len(rows), ROWS_OF_A_KIND)} of {len(rows)})", blocks)


def _row(row: Row) -> str:
    share = percent(row.num_right / len(row.verdicts)) if row.verdicts else "not scored"
    lineage = f" · from {escape(row.parent)}" if row.parent else ""
    lineage += "" if row.passage is None else f" · passage {row.passage}"
    return (
        f'<div class="group"><p><span class="tag">{row.stage}</span> <span class="soft small">{escape(row.row_id)}'
        f"{lineage} · {len(row.targets)} of {row.num_votes} votes agree · {share} of the base model's answers are right"
        f"</span></p><pre>{_text(row.input)}</pre><pre>{_text(row.label)}</pre></div>"
    )


def _dropped_samples(dropped: Sequence[Dropped]) -> str:
    if not dropped:
        return ""
    blocks = "".join(
        f'<div class="group"><p><span class="tag">{escape(each.stage)}</span> <span class="soft small">'
        f"{escape(each.row_id)} · {escape(each.reason)}</span></p><pre>{_text(each.text)}</pre></div>"
        for each in dropped[:ROWS_OF_A_KIND]
    )
    return folded(f"Left out ({min(len(dropped), ROWS_OF_A_KIND)} of {len(dropped)})", blocks)


def _text(text: str) -> str:
    return escape(text[:LONGEST_TEXT]) + (" …" if len(text) > LONGEST_TEXT else "")
