"""The samples of a report: what the model said at a few steps, with its rewards.

Given the kept samples of a run folder; gives HTML in which everything from the model and the data is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from raylign.jobs.report.page import folded, number
from raylign.jobs.report.stage import Problems
from raylign.jobs.run.samples import sample_files
from raylign.rewards.addresses import without_secrets
from raylign.rollout.data.json_lines import parse_json

MAX_STEPS = 6
"""Steps shown: the first, the last and some between."""
MAX_CHARACTERS = 6000
"""Longer texts are cut in the report; the files under samples/ have all of them."""


def samples_html(folder: Path, problems: Problems) -> str:
    """One block for each shown step, the last one first and open; empty where nothing was kept. What cannot be shown is
    added to the problems."""
    files = sample_files(folder)
    steps = sorted(files)
    if len(steps) > MAX_STEPS:
        steps = sorted({steps[round(i * (len(steps) - 1) / (MAX_STEPS - 1))] for i in range(MAX_STEPS)})
    blocks = []
    for step in reversed(steps):
        groups = "".join(_groups(files[step], problems))
        blocks.append(folded(f"Step {step}", groups, is_open=step == steps[-1]))
    return "\n".join(blocks)


def _groups(path: Path, problems: Problems) -> Iterator[str]:
    name = f"samples/{path.name}"
    try:
        text = path.read_text("utf-8-sig", errors="replace")
    except OSError as error:
        problems.add(name, error)
        return
    for line_number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield _group(parse_json(line, name, line_number))
            except KeyError as error:
                problems.add(f"{name}:{line_number}", f"there is no {error} in it")
            except (ValueError, TypeError, AttributeError, IndexError, OverflowError) as error:
                problems.add(f"{name}:{line_number}", error)


def _group(group: dict[str, Any]) -> str:
    references = " · ".join(_text(reference) for reference in group["references"])
    shown, all_of_them = len(group["completions"]), group["num_completions"]
    left_out = f", {shown} of {all_of_them} completions" if shown < all_of_them else ""
    failures = "".join(
        f'<p class="failure">{escape(failure["where"])}: {escape(failure["kind"])}, '
        f"{_text(without_secrets(failure['message']))}</p>"
        for failure in group["failures"]
    )
    return (
        f'<div class="group"><p><span class="tag">{escape(group["why"])}</span> '
        f'<span class="soft small">prompt {escape(str(group["ordinal"]))} · {escape(group["prompt_id"])}{left_out}'
        "</span></p>"
        f"<pre>{_text(group['prompt'])}</pre>"
        + (f'<p class="small"><span class="soft">reference</span> {references}</p>' if references else "")
        + _completions(group["completions"])
        + f"{failures}</div>"
    )


def _completions(completions: list[dict[str, Any]]) -> str:
    if not completions:
        return '<p class="soft small">no completion</p>'
    names = list(completions[0]["rewards"])
    names = names if len(names) > 1 else []  # one reward is the total, up to its weight
    totals = [c["total"] for c in completions if c["total"] is not None]
    low, high = (min(totals), max(totals)) if totals else (0.0, 0.0)
    head = "".join(f'<th class="number">{escape(name)}</th>' for name in ["reward", *names, "tokens"])
    rows = ""
    for completion in completions:
        cells = [_reward(completion["total"], low, high)]
        cells += [_score(completion["rewards"].get(name)) for name in names]
        cells += [escape(str(completion["num_tokens"]))]
        numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
        stop = "" if completion["stop_reason"] == "stop" else escape(completion["stop_reason"])
        rows += (
            f'<tr>{numbers}<td class="soft small">{stop}</td>'
            f'<td style="width:75%"><pre>{_text(completion["text"])}</pre></td></tr>\n'
        )
    return f'<div class="wide"><table><tr>{head}<th></th><th>completion</th></tr>\n{rows}</table></div>'


def _reward(total: float | None, low: float, high: float) -> str:
    """The total with a bar: its place between the worst and the best of the group."""
    if total is None:
        return "failed"
    share = (total - low) / (high - low) if high > low else 0.0
    bar = f'<span class="bar" style="width:{share * 100:.0f}%"></span>' if share > 0 else ""
    return f"{number(total)}{bar}"


def _score(value: float | None) -> str:
    return "failed" if value is None else number(value)


def _text(text: str) -> str:
    cut = f" … ({len(text) - MAX_CHARACTERS:,} more characters)" if len(text) > MAX_CHARACTERS else ""
    return escape(text[:MAX_CHARACTERS]) + cut
