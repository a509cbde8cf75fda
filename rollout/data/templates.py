"""Rows to text: `{column}` templates.

Given a template and a row; gives strings. Integers held as floats render without `.0` (tables often store counts as
floats, and a reference `26.0` never equals an answer `26`); a missing value (null, NaN, infinity) is an error, not the
text `None` or `nan`. An object, or a list with one, is an error too unless `{column!j}` asks for its JSON text.
"""

from __future__ import annotations

import json
import math
import string
from collections.abc import Collection, Mapping
from typing import Any

from raylign.rollout.hub import nearest

LARGEST_EXACT = 10**15
"""Floats below it are written as integers where they are; above it digits would be invented."""


class MissingValueError(ValueError):
    """A cell that a template needs is empty."""


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
            if format_spec or conversion not in (None, "j"):
                raise ValueError(f"template {text!r}: formats are not understood; use only {{{column}}}")
        self._pieces = [(literal, column) for literal, column, _, _ in pieces]
        self._as_json = {column for _, column, _, conversion in pieces if conversion}

    @property
    def columns(self) -> list[str]:
        return [column for _, column in self._pieces if column is not None]

    @property
    def only_column(self) -> str | None:
        """The column, where the template is one field and nothing around it."""
        column = self.columns[0] if len(self.columns) == 1 else None
        return column if self.text == f"{{{column}}}" else None

    def check_columns(self, known: Collection[str], where: str) -> None:
        """Raise if a field names no column; the columns there are come with the message."""
        for column in self.columns:
            if column not in known and column.split(".")[0] not in known:
                raise ValueError(
                    f"{where} {self.text!r} names column {column!r}, which the data has not; "
                    f"its columns are {', '.join(known)}{nearest(column, known)}"
                )

    def render(self, row: Mapping[str, Any]) -> str:
        """One string; a list is joined with ", "."""
        return self._fill({column: look_up(row, column) for column in self.columns})

    def render_each(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """One string for each element where a column holds a list, none where one is missing, else one string."""
        values = {column: look_up(row, column) for column in self.columns}
        lists = [c for c, value in values.items() if isinstance(value, (list, tuple)) and c not in self._as_json]
        if any(is_missing(value) for value in values.values()):
            return ()
        if not lists:
            return (self._fill(values),)
        if len(lists) > 1:
            raise ValueError(f"template {self.text!r}: only one column may hold a list, not {' and '.join(lists)}")
        elements = [element for element in values[lists[0]] if not is_missing(element)]
        return tuple(self._fill({**values, lists[0]: element}) for element in elements)

    def _fill(self, values: dict[str, Any]) -> str:
        return "".join(
            literal + (self._cell(values[column], column) if column else "") for literal, column in self._pieces
        )

    def _cell(self, value: Any, column: str) -> str:
        if column in self._as_json:
            return json.dumps(value, ensure_ascii=False, default=str)
        return render_value(value, column)


def look_up(row: Mapping[str, Any], column: str) -> Any:
    """The value of `column`, or of a path `outer.inner` into nested rows."""
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if not isinstance(value, dict) or part not in value:
            raise ValueError(f"no column {column!r}; the row has {', '.join(row)}{nearest(column, row)}")
        value = value[part]
    return value


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: null, or a number that is none."""
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def render_value(value: Any, column: str) -> str:
    if isinstance(value, str):
        return value
    if is_missing(value):
        raise MissingValueError(f"column {column!r} is {'null' if value is None else value}")
    if isinstance(value, float) and value.is_integer() and abs(value) < LARGEST_EXACT:
        return str(int(value))
    if isinstance(value, (list, tuple)):
        if any(isinstance(element, (list, tuple, dict)) for element in value):
            raise ValueError(f"column {column!r} holds a list of objects, which is no text{_advice(column)}")
        return ", ".join(render_value(element, column) for element in value)
    if isinstance(value, dict):
        raise ValueError(f"column {column!r} holds an object, which is no text{_advice(column)}")
    if isinstance(value, bytes | bytearray):
        raise ValueError(f"column {column!r} holds bytes, which are no text: store it as a column of strings")
    return str(value)


def _advice(column: str) -> str:
    return (
        f"; name a value in it ({{{column}.key}}), let data.messages name the column if it is a chat, or ask for its "
        f"JSON text by {{{column}!j}}"
    )
