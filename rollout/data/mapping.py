"""Columns to texts: what each row asks, what answers are accepted, what to imitate.

Given rows and a `DataConfig`; gives `MappedRow`s, still without a tokenizer. A row that does not fit is a ValueError
that names it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from raylign.rollout.data.sources import Row
from raylign.rollout.data.templates import Message, Template, check_messages, look_up

if TYPE_CHECKING:
    from raylign.rollout.data.config import DataConfig


@dataclass(frozen=True)
class MappedRow:
    """One row, mapped."""

    index: int
    """Place in the source, from 0."""
    messages: list[Message]
    """The chat up to the assistant's turn."""
    references: tuple[str, ...]
    response: str | None
    """The demonstration; None where the row has none."""
    row: Row


def map_rows(config: DataConfig, rows: Sequence[Row]) -> list[MappedRow]:
    """All rows through the templates of `config`."""
    prompt = Template(config.prompt)
    reference = Template(config.reference) if config.reference is not None else None
    response = Template(config.response) if config.response is not None else None
    _check_columns(config, rows, prompt, reference, response)
    mapped: list[MappedRow] = []
    for index, row in enumerate(rows):
        try:
            demonstration = None
            if config.messages is not None:
                messages = check_messages(look_up(row, config.messages))
                if messages[-1]["role"] == "assistant":
                    demonstration = messages.pop()["content"]
            else:
                messages = [{"role": "user", "content": prompt.render(row)}]
            if config.system is not None:
                messages.insert(0, {"role": "system", "content": config.system})
            references = reference.render_each(row) if reference is not None else ()
            if response is not None:
                demonstration = response.render(row)
            elif demonstration is None and references:
                demonstration = references[0]
        except ValueError as error:
            raise ValueError(f"{config.source}, {row_name(index)}: {error}") from error
        mapped.append(MappedRow(index, messages, references, demonstration, row))
    return mapped


def row_name(index: int) -> str:
    """Rows as people count them."""
    return f"row {index + 1}"


def fingerprint_rows(config: DataConfig, mapped: Iterable[MappedRow]) -> str:
    """Digest of the chosen rows' content, in order, and of how they are mapped. Where the data lies does not count."""
    keys = ("prompt", "reference", "response", "messages", "system", "template", "shuffle")
    settings = [getattr(config, key) for key in keys]
    if config.pairs != type(config.pairs)():
        settings.append(config.pairs.model_dump())
    digest = hashlib.sha256(json.dumps(settings).encode())
    for item in mapped:
        content = json.dumps([item.index, item.row], default=_stable_text, skipkeys=True, ensure_ascii=True)
        digest.update(content.encode())
        digest.update(b"\n")
    return digest.hexdigest()[:16]


def _stable_text(value: Any) -> str:
    """Text of a value that is not JSON: the same in every process, so never an address or a set's order."""
    if isinstance(value, (set, frozenset)):
        return str(sorted(map(str, value)))
    if isinstance(value, (Decimal, date, time, bytes)):
        return str(value)
    return type(value).__name__


def _check_columns(
    config: DataConfig, rows: Sequence[Row], prompt: Template, reference: Template | None, response: Template | None
) -> None:
    """Before any row is rendered: fields that no row could fill."""
    known = list(dict.fromkeys(column for row in rows for column in row))
    if config.messages is None:
        prompt.check_columns(known, f"{config.source}: `prompt`")
    else:
        Template("{" + config.messages + "}").check_columns(known, f"{config.source}: `messages`")
    if reference is not None:
        reference.check_columns(known, f"{config.source}: `reference` (null where there is none)")
    if response is not None:
        response.check_columns(known, f"{config.source}: `response`")
