"""What a job says of itself at its end: rows by stage, reasons, pass counts, what the teacher took.

Given the results of the stages; gives plain values for summary.json and the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from raylign.jobs.synthetic.config import SynthesizeConfig
from raylign.jobs.synthetic.rows import Row, StageResult
from raylign.jobs.synthetic.selection import Selection
from raylign.jobs.synthetic.teacher import Teacher


def teacher_facts(teacher: Teacher) -> dict[str, Any]:
    """Calls, tokens and cost, those of earlier sessions included."""
    meter = teacher.client.meter
    return {
        "total": asdict(meter.total),
        "by_stage": {stage: asdict(usage) for stage, usage in meter.by_stage.items()},
        "this_session": asdict(meter.this_session),
        "repeated_in_flight": teacher.repeated_in_flight,
    }


def summary_of(
    config: SynthesizeConfig,
    stages: dict[str, StageResult],
    selection: Selection,
    teacher: Teacher,
    resumed: Sequence[str],
) -> dict[str, Any]:
    """Everything but the test set."""
    reasons: dict[str, int] = {}
    for result in stages.values():
        for each in result.dropped:
            reasons[f"{each.stage}: {each.reason}"] = reasons.get(f"{each.stage}: {each.reason}", 0) + 1
    return {
        "num_selected": len(selection.row_ids),
        "num_scored": len(stages["score"].rows),
        "num_learnable": selection.num_learnable,
        "shortfall": selection.shortfall,
        "selected_ids": list(selection.row_ids),
        "pass_counts": {str(k): count for k, count in selection.counts.items()},
        "pass_counts_initial": _pass_counts([row for row in stages["score"].rows if row.stage == "initial"]),
        "num_answers_each": config.scoring.num_answers,
        "stages": {
            name: {"rows": len(result.rows), "dropped": len(result.dropped)}
            | {fact: value for fact, value in result.facts.items() if fact not in ("passages", "numbers")}
            for name, result in stages.items()
        },
        "dropped_by_reason": reasons,
        "teacher": teacher_facts(teacher),
        "resumed_stages": list(resumed),
        "deterministic": config.deterministic,
        "note": (
            "the same files after any interruption"
            if config.deterministic
            else "answers of the base model are sampled anew where a job was interrupted; not so with `deterministic`"
        ),
    }


def _pass_counts(rows: Sequence[Row]) -> dict[str, int]:
    counts: dict[int, int] = {}
    for row in rows:
        counts[row.num_right] = counts.get(row.num_right, 0) + 1
    return {str(k): counts[k] for k in sorted(counts)}
