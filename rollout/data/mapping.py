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

from raylign.rollout.data.chats import Message, is_chat, is_message, read_chat, read_tools
from raylign.rollout.data.templates import MissingValueError, Template, look_up

if TYPE_CHECKING:
    from raylign.rollout.data.config import DataConfig

Row = dict[str, Any]


@dataclass(frozen=True)
class MappedRow:
    """One row, mapped."""

    index: int
    """Place in the source, from 0."""
    messages: list[Message]
    """The chat up to the assistant's turn."""
    references: tuple[str, ...]
    """Those that say anything."""
    response: str | None
    """The demonstration; None where the row has none, or it is an `answer`."""
    row: Row
    tools: list[Any] | None = None
    """What the chat may call, for the chat template."""
    answer: Message | None = None
    """A demonstration that is more than text (tool calls), which the chat template writes."""


def map_rows(config: DataConfig, rows: Sequence[Row]) -> list[MappedRow]:
    """All rows through the templates of `config`."""
    prompt = Template(config.prompt)
    reference = Template(config.reference) if config.reference is not None else None
    response = Template(config.response) if config.response is not None else None
    _check_columns(config, rows, prompt, reference, response)
    mapped: list[MappedRow] = []
    for index, row in enumerate(rows):
        try:
            answer: Message | None = None
            if config.messages is not None:
                messages = read_chat(look_up(row, config.messages))
                if messages[-1]["role"] == "assistant":
                    answer = messages.pop()
                if not messages:
                    raise ValueError("the chat has nothing before the assistant's message")
            else:
                messages = [{"role": "user", "content": prompt.render(row)}]
            if config.system is not None:
                messages.insert(0, {"role": "system", "content": config.system})
            references = _references(reference, row)
            if response is not None:
                answer = answer_in(response, row)
            elif answer is None and references:
                answer = answer_in(reference, row) if reference else None
                answer = answer if answer and is_more_than_text(answer) else _said(references[0])
            tools = read_tools(row.get(config.tools)) if config.tools is not None else None
        except ValueError as error:
            raise ValueError(f"{config.source}, {row_name(index)}: {error}") from error
        is_text = answer is not None and not is_more_than_text(answer)
        text = answer["content"] if answer is not None and is_text and answer["content"].strip() else None
        mapped.append(MappedRow(index, messages, references, text, row, tools, None if is_text else answer))
    return mapped


def answer_in(template: Template, row: Row) -> Message | None:
    """What the assistant says in an answer's column: a text, one message, or a chat of one message; None if missing."""
    column = template.only_column
    cell = look_up(row, column) if column is not None else None
    if is_message(cell) or is_chat(cell):
        chat = read_chat(cell)
        if len(chat) != 1 or chat[0]["role"] != "assistant":
            raise ValueError(f"column {column!r} holds a chat of {len(chat)} messages, not one answer of the assistant")
        return chat[0]
    try:
        return _said(template.render(row))
    except MissingValueError:
        return None


def _said(text: str) -> Message:
    return {"role": "assistant", "content": text}


def is_more_than_text(message: Message) -> bool:
    """Whether only a chat template can write the message: it calls tools, or thinks."""
    return bool(message.keys() - {"role", "content", "name"})


def _references(template: Template | None, row: Row) -> tuple[str, ...]:
    if template is None:
        return ()
    column = template.only_column
    cell = look_up(row, column) if column is not None else None
    if is_message(cell) or is_chat(cell):
        answer = answer_in(template, row)
        found: tuple[str, ...] = (answer["content"],) if answer is not None else ()
    else:
        found = template.render_each(row)
    return tuple(text for text in found if text.strip())


def row_name(index: int) -> str:
    """Rows as people count them."""
    return f"row {index + 1}"


def fingerprint_rows(config: DataConfig, mapped: Iterable[MappedRow]) -> str:
    """Digest of the chosen rows' content, in order, and of how they are mapped. Where the data lies does not count."""
    keys = ("prompt", "reference", "response", "messages", "system", "template", "shuffle")
    settings = [getattr(config, key) for key in keys]
    if config.tools is not None:
        settings.append(config.tools)
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
    if config.tools is not None:
        Template("{" + config.tools + "}").check_columns(known, f"{config.source}: `tools`")
    if reference is not None:
        reference.check_columns(known, f"{config.source}: `reference` (null where there is none)")
    if response is not None:
        response.check_columns(known, f"{config.source}: `response`")
