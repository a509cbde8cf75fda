"""What a benchmark gives back, and the few things that all of them need: pairs in turn, one core for each role.

Given timings of two sides; gives `Measurement`s, rows of the table that `benchmarks/run.py` writes.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """One row of the table: `ratio` (or `ours`, where nothing stands beside it) against `goal`."""

    name: str
    """What was measured, in a few words."""
    unit: str
    ours: float
    other: float | None = None
    """Theirs, or the limit."""
    other_name: str = ""
    ratio: float | None = None
    """Median over the pairs."""
    spread: tuple[float, float] | None = None
    """Least and most of what is judged, over the pairs."""
    goal: str = ""
    """`>= 0.95` or `<= 0.08`, of the ratio where there is one, else of `ours`; empty: reported only."""
    notes: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    """Numbers behind the row, for results.json only."""

    def row(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def is_met(row: dict[str, Any]) -> bool | None:
    """Whether a row reaches its goal; None where it has none."""
    goal = str(row.get("goal") or "").replace("≥", ">=").replace("≤", "<=").split()
    if not goal:
        return None
    value = row["ratio"] if row.get("ratio") is not None else row.get("ours")
    if value is None:
        return False
    sign, limit = (goal[0], goal[1]) if len(goal) > 1 else (">=", goal[0])
    return value >= float(limit) if sign == ">=" else value <= float(limit)


def in_turn(sides: dict[str, Callable[[], float]], num_pairs: int, num_warm_up: int = 1) -> dict[str, list[float]]:
    """What each side gives, round after round: a disturbance of the machine hits all sides alike. The order turns
    round each time, so that none always comes first."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for pair in range(-num_warm_up, num_pairs):
        for name in sorted(sides, reverse=pair % 2 == 1):
            value = sides[name]()
            if pair >= 0:
                found[name].append(value)
    return found


def compare(
    name: str,
    unit: str,
    ours: Sequence[float],
    other: Sequence[float],
    other_name: str,
    goal: str,
    notes: Sequence[str] = (),
    **details: Any,
) -> Measurement:
    """Rates (more is better) of pairs that ran in turn."""
    ratios = [mine / theirs for mine, theirs in zip(ours, other, strict=True)]
    return Measurement(
        name=name,
        unit=unit,
        ours=statistics.median(ours),
        other=statistics.median(other),
        other_name=other_name,
        ratio=statistics.median(ratios),
        spread=(min(ratios), max(ratios)),
        goal=goal,
        notes=list(notes),
        details={"ours": list(ours), "other": list(other), **details},
    )


def engine_core() -> int:
    """The core on which an engine generates: the last."""
    return sorted(os.sched_getaffinity(0))[-1]


def learner_core() -> int:
    """The core on which a learner trains: the first."""
    return sorted(os.sched_getaffinity(0))[0]


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """This thread, and the threads and processes it starts, on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def command_line(measure: Callable[[int, int], Sequence[dict[str, Any]]], about: str | None, num_steps: int) -> None:
    """`--rounds`, `--steps`: measure and show."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=num_steps)
    arguments = parser.parse_args()
    show(measure(arguments.rounds, arguments.steps))


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows as one reads them."""
    for row in rows:
        ratio = f"  ratio {row['ratio']:.3f}" if row.get("ratio") is not None else ""
        spread = f" [{row['spread'][0]:.3f}, {row['spread'][1]:.3f}]" if row.get("spread") else ""
        other = f"  {row.get('other_name') or 'other'} {row['other']:,.4g}" if row.get("other") is not None else ""
        met = {True: "met", False: "MISSED", None: "reported"}[is_met(row)]
        print(
            f"{row['name']}: {row['ours']:,.4g} {row['unit']}{other}{ratio}{spread}  goal {row['goal'] or '–'}: {met}"
        )
        for note in row["notes"]:
            print(f"    {note}")
