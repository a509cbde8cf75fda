"""The pool of `raylign data grpo`: rows with a prompt and references, and why others are left out.

Given a `GrpoDataConfig`; gives `Pool`: usable rows in the order of the source, with what was dropped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from raylign.jobs.data.dropped import Dropped
from raylign.jobs.data.grpo_config import GOLD, GrpoDataConfig, PoolConfig
from raylign.rollout.data.chats import is_chat, read_chat
from raylign.rollout.data.mapping import row_name
from raylign.rollout.data.order import select_rows
from raylign.rollout.data.sources import Reading, read_source
from raylign.rollout.data.templates import MissingValueError, Template, is_missing

COLUMN_PREFIX = "ref_output_"
READ = "read"
"""The stage of what is left out here."""
SHORT_NAMES = (("o4-mini", "o4mini"), ("deepseek", "deepseek"), ("claude", "claude"), ("gemini", "gemini"),
               ("llama", "llama"))  # fmt: skip
"""As the published code shortens the names of its reference models."""


@dataclass(frozen=True)
class PoolRow:
    """One usable row."""

    index: int
    """Place in the source, from 0."""
    id: Any
    """Column `id`, or the place where there is none."""
    source: str
    """Column `source`: where the row comes from."""
    prompt: str
    messages: list[dict[str, str]]
    references: tuple[str, ...]
    ground_truth: str
    """The gold reference, or the first answer in the chat, or the first reference."""


@dataclass
class Pool:
    """What a source holds."""

    rows: list[PoolRow] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    num_read: int = 0
    prompts_digest: str = ""
    """Of the prompts of all rows read, whatever references are asked for: answers drawn once serve them all."""
    digest: str = ""
    """Of everything that decides the result: ids, prompts, references."""


def read_pool(config: GrpoDataConfig) -> Pool:
    """Read, map, drop; a ValueError where no row is usable or a reference names no column."""
    data = config.data
    read = read_source(data.source, data.subset, data.split, 0, 0, Reading()).rows
    columns = list(dict.fromkeys(column for row in read for column in row))
    names = [] if data.reference is not None else config.references
    check_reference_columns(columns, names, data.source)
    if data.reference is not None:
        Template(data.reference).check_columns(columns, f"{data.source}: `data.reference`")
    prompts = [_prompt(data, row, number) for number, row in enumerate(read)]
    chosen = np.sort(select_rows(data.rows, [prompt or "" for prompt in prompts], data.split_seed)).tolist()
    pool = Pool(num_read=len(chosen), prompts_digest=_digest([data.template, prompts]))
    for index in chosen:
        row, prompt = read[index], prompts[index]
        row_id = index if is_missing(row.get("id")) else row["id"]
        if prompt is None or not prompt.strip():
            pool.dropped.append(Dropped(row_id, READ, "no prompt"))
            continue
        references = _references(data, names, row)
        if isinstance(references, str):
            pool.dropped.append(Dropped(row_id, READ, references))
            continue
        pool.rows.append(_pool_row(data, row, index, row_id, prompt, references))
    if not pool.rows:
        reasons = sorted({dropped.reason for dropped in pool.dropped})
        raise ValueError(f"{data.source}: none of {pool.num_read} rows is usable ({', '.join(reasons)})")
    ids = [row.id for row in pool.rows] + [each.row_id for each in pool.dropped]
    if not all(isinstance(row_id, int) for row_id in ids):
        # a column has one type
        pool.rows = [replace(row, id=str(row.id)) for row in pool.rows]
        pool.dropped = [replace(each, row_id=str(each.row_id)) for each in pool.dropped]
    pool.digest = _digest([[row.id, row.prompt, row.references, row.source] for row in pool.rows])
    return pool


def check_reference_columns(columns: Sequence[str], names: Sequence[str], source: str) -> None:
    """Raise where one of the references is no column: nothing is trained on fewer than were asked for."""
    known = [column.removeprefix(COLUMN_PREFIX) for column in columns if column.startswith(COLUMN_PREFIX)]
    if unknown := [name for name in names if name not in known]:
        there_are = ", ".join(known) if known else f"none (columns {COLUMN_PREFIX}…); data.reference names others"
        raise ValueError(
            f"{source}: ref_models names {', '.join(unknown)}, which no column {COLUMN_PREFIX}… has; the reference "
            f"models there are: {there_are}"
        )


def short_name(reference: str) -> str:
    """`o4mini` for o4-mini-2025-04-16."""
    found = next((short for part, short in SHORT_NAMES if part in reference.lower()), None)
    return found or file_safe(reference)


def file_safe(name: str) -> str:
    """A part of a file name."""
    return "".join(letter if letter.isalnum() or letter in ".-_" else "-" for letter in name).strip("-.") or "data"


def data_name(source: str) -> str:
    """The last part of a path or id, without a file's ending."""
    path = Path(source)
    return file_safe(path.name.split(".")[0] if path.is_file() else path.name)


def _references(data: PoolConfig, names: Sequence[str], row: dict[str, Any]) -> tuple[str, ...] | str:
    """A reason where it has none."""
    if data.reference is not None:
        found = tuple(text for text in Template(data.reference).render_each(row) if text.strip())
        return found or "no reference"
    cells = {name: row.get(COLUMN_PREFIX + name) for name in names}
    for name, cell in cells.items():
        if not isinstance(cell, str) or not cell.strip():
            return f"no reference {name}"
    return tuple(str(cell) for cell in cells.values())


def _pool_row(
    data: PoolConfig, row: dict[str, Any], index: int, row_id: Any, prompt: str, references: tuple[str, ...]
) -> PoolRow:
    gold = row.get(COLUMN_PREFIX + GOLD)
    chat = _chat(data, row)
    answers = [message["content"] for message in chat if message["role"] == "assistant"]
    truth = gold if isinstance(gold, str) and gold.strip() else answers[0] if answers else references[0]
    user, assistant = {"role": "user", "content": prompt}, {"role": "assistant", "content": truth}
    source = row.get("source")
    return PoolRow(
        index, row_id, "" if is_missing(source) else str(source), prompt, chat or [user, assistant], references, truth
    )


def _prompt(data: PoolConfig, row: dict[str, Any], number: int) -> str | None:
    """The prompt of a row; None where it has none."""
    try:
        if data.prompt is not None:
            return Template(data.prompt).render(row)
        if isinstance(row.get("prompt"), str):
            return str(row["prompt"])
        chat = _chat(data, row)
    except MissingValueError:
        return None
    except ValueError as error:
        raise ValueError(f"{data.source}, {row_name(number)}: {error}") from error
    return next((message["content"] for message in chat if message["role"] == "user"), None)


def _chat(data: PoolConfig, row: dict[str, Any]) -> list[dict[str, str]]:
    """Role and content of each message; empty where the row holds no chat."""
    cell = row.get(data.messages)
    if not is_chat(cell):
        return []
    return [{"role": str(message["role"]), "content": str(message["content"])} for message in read_chat(cell)]


def _digest(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
