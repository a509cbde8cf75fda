"""What a finished folder found, as numbers with intervals: of a training run, an evaluation, a comparison, a data job.

Given a folder; gives its numbers by name, whichever command wrote it, from `summary.json`, `evaluation.json` or
`comparison.json`. Sweep tables and the viewer read results here and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULT_FILES = ("summary.json", "evaluation.json", "comparison.json")
NORMAL_95 = 1.96
SUFFIXES = ("_low", "_high")


@dataclass(frozen=True)
class Number:
    """A measured value; `low` and `high` are None where it has no interval."""

    value: float
    low: float | None = None
    high: float | None = None


def read_result(folder: Path) -> dict[str, Any] | None:
    """The result file of a folder; None while there is none, or only half of one."""
    for name in RESULT_FILES:
        try:
            found = json.loads((folder / name).read_text("utf-8"))
        except (OSError, ValueError):  # not there yet, deleted meanwhile, or half-written
            continue
        if isinstance(found, dict):
            return found
    return None


def is_finished(folder: Path) -> bool:
    """Whether a command did all that it was to do there."""
    found = read_result(folder)
    return found is not None and bool(found.get("finished", True))


def result_numbers(found: Mapping[str, Any]) -> dict[str, Number]:
    """By name, without the interval's ends as numbers of their own."""
    if "by_reward" in found and "by_judge" in found:
        return _of_comparison(found)
    flat: dict[str, float] = {}
    evaluation = found.get("evaluation")
    # an evaluation has seconds and a step of its own: those of the run come last
    for part in (evaluation if isinstance(evaluation, Mapping) else {}, found):
        for key, value in part.items():
            if _is_number(value):
                flat[key.removeprefix("evaluation/")] = float(value)
    return _with_intervals(flat)


def _of_comparison(found: Mapping[str, Any]) -> dict[str, Number]:
    numbers: dict[str, Number] = {}
    for by, prefix in (("by_reward", ""), ("by_judge", "judge_")):
        rates = found[by]
        if isinstance(rates, Mapping):
            flat = {f"{prefix}{key}": float(value) for key, value in rates.items() if _is_number(value)}
            numbers |= _with_intervals(flat)
    kl = found.get("kl")
    if isinstance(kl, Mapping) and _is_number(kl.get("mean")):
        half = NORMAL_95 * float(kl.get("standard_error") or 0.0)
        numbers["kl"] = Number(float(kl["mean"]), kl["mean"] - half, kl["mean"] + half)
    for side in ("new", "reference"):
        facts = found.get(side)
        for key in ("mean_tokens", "mean_characters", "truncated_share"):
            if isinstance(facts, Mapping) and _is_number(facts.get(key)):
                numbers[f"{side}_{key}"] = Number(float(facts[key]))
    return numbers


def _with_intervals(flat: Mapping[str, float]) -> dict[str, Number]:
    return {
        key: Number(value, flat.get(f"{key}_low"), flat.get(f"{key}_high"))
        for key, value in flat.items()
        if not (key.endswith(SUFFIXES) and key.rpartition("_")[0] in flat)
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
