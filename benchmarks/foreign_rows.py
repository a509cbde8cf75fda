"""Rows of the table from benchmarks that answer in a shape of their own.

Given a module's name and what its `measure` gave; gives rows as `measurement.Measurement` has them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.measurement import Measurement


def rows_of(name: str, result: Any) -> list[dict[str, Any]]:
    """A list of rows, whatever the module gave."""
    if name in SHAPES:
        return [row.row() for row in SHAPES[name](result)]
    return [result] if isinstance(result, dict) else list(result)


def weight_sync(result: dict[str, Any]) -> list[Measurement]:
    """For each model: the rate while generation stands still, and how much longer than the reload it stands still."""
    rows = []
    for found in result["rows"]:
        what = f"{found['model']} {found['dtype']}"
        is_judged = found["model"] != "1M"  # too small for a rate to mean anything
        rows.append(
            Measurement(
                f"weight sync, {what}",
                "GB/s",
                found["pause_gb_per_s"],
                other=found["reload_gb_per_s"],
                other_name="vLLM's reload",
                ratio=found["ratio"],
                spread=tuple(found["ratio_spread"]),
                goal=">= 0.85" if is_judged else "",
                notes=[f"memcpy {found['memcpy_gb_per_s']:.1f} GB/s; {found['calls_while_paused']} calls while paused"],
                details=found,
            )
        )
        rows.append(
            Measurement(f"weight sync, {what}: pause beyond the reload", "s", found["extra_pause_s"], goal="<= 0.05")
        )
    return rows


def experience_log(result: dict[str, Any]) -> list[Measurement]:
    """Against the bare hand-over with one producer, and 16 producers against one."""
    few, many = result["rows"][0], result["rows"][-1]
    about = f"{result['items_per_call']} items of {result['item_bytes'] / 1000:.1f} KB a call; spread: quartiles"
    return [
        Measurement(
            "experience log, 1 producer",
            "items/s",
            few["log_items_per_s"],
            other=few["bare_items_per_s"],
            other_name="bare hand-over",
            ratio=few["ratio"],
            spread=(few["ratio_low"], few["ratio_high"]),
            goal=">= 0.8",
            notes=[about],
            details=result,
        ),
        Measurement(
            f"experience log, {many['producers']} producers against 1",
            "items/s",
            many["log_items_per_s"],
            other=few["log_items_per_s"],
            other_name="1 producer",
            ratio=result["rate_16_over_1"],
            goal=">= 0.85",
        ),
    ]


SHAPES: dict[str, Callable[[dict[str, Any]], list[Measurement]]] = {
    "weight_sync": weight_sync,
    "experience_log": experience_log,
}
