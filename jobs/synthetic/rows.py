"""A row on its way through the stages, and the file that a finished stage leaves.

Given what a stage makes of rows; gives `Row`s with their lineage and a `StageResult`, whole on disk or not there. A
finished stage is not run again: its file is read, and refused where what decides it has changed.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from raylign.jobs.data.dropped import Dropped
from raylign.jobs.run.folder import write_atomically

RowStage = Literal["initial", "harder", "easier"]


@dataclass(frozen=True)
class Row:
    """One row with its lineage. What a stage has not filled yet is empty."""

    row_id: str
    """`r0007`, and of its rewrite `r0007h` or `r0007e`."""
    stage: RowStage
    input: str
    output: str
    """As the teacher wrote it."""
    parent: str | None = None
    """The row that a rewrite came from."""
    passage: int | None = None
    """Place of the passage, in the order of passages.json."""
    demos: tuple[int, ...] = ()
    """Places of the demonstrations that were shown."""
    label: str = ""
    """verify: one of the replies that agree."""
    targets: tuple[str, ...] = ()
    """verify: all replies that agree (the original's `all`)."""
    num_read: int = 0
    """verify: votes that could be read."""
    num_votes: int = 0
    """verify: votes altogether."""
    is_solved: bool | None = None
    """adapt: whether the base model's one greedy answer is right; rewrites have none."""
    verdicts: tuple[bool, ...] = ()
    """score: of each answer of the base model."""
    right_answers: tuple[str, ...] = ()
    """score: the base model's own right answers."""

    @property
    def num_right(self) -> int:
        return sum(self.verdicts)


@dataclass
class StageResult:
    """What a stage gives."""

    rows: list[Row] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


async def stage_result(
    folder: Path, name: str, key: str, make: Callable[[], Awaitable[StageResult]], resumed: list[str]
) -> StageResult:
    """From the stage's file, or made and written. `resumed` takes the names of stages that were read."""
    path = folder / f"{name}.json"
    if path.exists():
        resumed.append(name)
        return _read(path, key)
    made = await make()
    text = json.dumps({"key": key, **asdict(made)}, ensure_ascii=False, indent=1) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)
    return _read(path, key)  # so that an uninterrupted job goes on with what a resumed one would read


def _read(path: Path, key: str) -> StageResult:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found = str(values["key"])
        result = StageResult(
            [_row(row) for row in values["rows"]], [Dropped(**each) for each in values["dropped"]], values["facts"]
        )
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{path}: not what this job writes ({error!r}); remove the file, and the stage is made again"
        ) from None
    if found != key:
        raise ValueError(
            f"{path}: the stage was made from something else: its rows, task, demonstrations, passages, model or "
            "settings have changed since; put them back, or choose a new folder"
        )
    return result


def _row(values: dict[str, Any]) -> Row:
    lists = {name: tuple(values[name]) for name in ("demos", "targets", "verdicts", "right_answers")}
    return Row(**{**values, **lists})


def same_text(text: str) -> str:
    """What makes two inputs equal: spaces and capitals do not tell them apart."""
    return " ".join(text.split()).casefold()


def without_repeats(
    rows: Sequence[Row], known: set[str], stage: str, reason: str = "repeated input"
) -> tuple[list[Row], list[Dropped]]:
    """Rows whose input is new; `known` grows."""
    kept, dropped = [], []
    for row in rows:
        text = same_text(row.input)
        if text in known:
            dropped.append(Dropped(row.row_id, stage, reason, row.input))
            continue
        known.add(text)
        kept.append(row)
    return kept, dropped
