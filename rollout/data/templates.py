"""Rows to text: `{column}` templates.

Given a template and a row; gives strings. Integers held as floats render without `.0` (tables often store counts as
floats, and a reference `26.0` never equals an answer `26`); a null value is an error, not the text `None`.
"""

from __future__ import annotations

import json
import string
from collections.abc import Collection
from typing import Any

from raylign.rollout.hub import nearest

Message = dict[str, str]


class Template:
    """A text with `{column}` fields; `{outer.inner}` reaches into a nested row, `{{` and `}}` are literal braces."""

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            pieces = list(string.Formatter().parse(text))
        except ValueError as error:
            raise ValueError(f"template {text!r}: {error}; write a literal brace twice") from error
        for _, column, format_spec, conversion in pieces:
            if column == "":
                raise ValueError(f"template {text!r}: empty braces; name a column: {{column}}")
            if format_spec or conversion:
                raise ValueError(f"template {text!r}: formats are not understood; use only {{{column}}}")
        self._pieces = [(literal, column) for literal, column, _, _ in pieces]

    @property
    def columns(self) -> list[str]:
        return [column for _, column in self._pieces if column is not None]

    def check_columns(self, known: Collection[str], where: str) -> None:
        """Raise if a field names no column; the columns there are come with the message."""
        for column in self.columns:
            if column not in known and column.split(".")[0] not in known:
                raise ValueError(
                    f"{where} {self.text!r} names column {column!r}, which the data has not; "
                    f"its columns are {', '.join(known)}{nearest(column, known)}"
                )

    def render(self, row: dict[str, Any]) -> str:
        """One string; a list is joined with ", "."""
        return self._fill({column: look_up(row, column) for column in self.columns})

    def render_each(self, row: dict[str, Any]) -> tuple[str, ...]:
        """One string for each element where a column holds a list, none where one is null, else one string."""
        values = {column: look_up(row, column) for column in self.columns}
        lists = [column for column, value in values.items() if isinstance(value, (list, tuple))]
        if any(value is None for value in values.values()):
            return ()
        if not lists:
            return (self._fill(values),)
        if len(lists) > 1:
            raise ValueError(f"template {self.text!r}: only one column may hold a list, not {' and '.join(lists)}")
        return tuple(self._fill({**values, lists[0]: value}) for value in values[lists[0]])

    def _fill(self, values: dict[str, Any]) -> str:
        return "".join(
            literal + (render_value(values[column], column) if column is not None else "")
            for literal, column in self._pieces
        )


def look_up(row: dict[str, Any], column: str) -> Any:
    """The value of `column`, or of a path `outer.inner` into nested rows."""
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if not isinstance(value, dict) or part not in value:
            raise ValueError(f"no column {column!r}; the row has {', '.join(row)}{nearest(column, row)}")
        value = value[part]
    return value


def render_value(value: Any, column: str) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        raise ValueError(f"column {column!r} is null")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, (list, tuple)):
        return ", ".join(render_value(element, column) for element in value)
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def check_messages(messages: Any) -> list[Message]:
    """A chat: a non-empty list of {"role": …, "content": …} with text."""
    if not isinstance(messages, (list, tuple)) or not messages:
        raise ValueError("a chat must be a non-empty list of messages")
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise ValueError(f"message {number} needs `role` and `content`, both text; it is {str(message)[:80]}")
    return [{"role": message["role"], "content": message["content"]} for message in messages]
