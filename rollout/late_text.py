"""Texts that are decoded when somebody reads them: a step's answers may be gigabytes that nobody does.

Given, as the value of a dataclass field `text: str = LateText()`, a string or a `Decode`; gives a string each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

KEY = "_text"


@dataclass(frozen=True)
class Decode:
    """A text of an Arrow array of strings."""

    texts: Any
    index: int

    def __call__(self) -> str:
        text: str = self.texts[self.index].as_py()
        return text


class LateText:
    """The field's descriptor. The field has no default."""

    def __get__(self, holder: Any, _: type) -> str:
        if holder is None:
            raise AttributeError("text")
        given: str | Decode = vars(holder)[KEY]
        return given if isinstance(given, str) else given()

    def __set__(self, holder: Any, given: str | Decode) -> None:
        vars(holder)[KEY] = given
