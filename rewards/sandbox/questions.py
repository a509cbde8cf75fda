"""Questions about texts that a killable process answers, beside scores of items.

Given a `Question` (a verb and rows of texts), a reward that `Answers` gives one value for each row; they go to the
parent as data and are checked there: a text, nothing, a text with a truth, or a typed failure.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

from raylign.rewards.base import FailureKind, RewardFailure
from raylign.rewards.sandbox.messages import MAX_MESSAGE_CHARACTERS, BadReply

Value = str | None | tuple[str | None, bool] | RewardFailure


@dataclass(frozen=True)
class Question:
    """Question("answers", (("so #### 72",), ("I do not know",)))"""

    verb: str
    rows: tuple[tuple[str, ...], ...]


class Answers(ABC):
    """What the process of a reward can be asked."""

    @abstractmethod
    def answer(self, question: Question) -> Sequence[Value]:
        """One value for each row. What the user's code raises for one row is a failure of that row."""


def values_to_data(values: Sequence[Value]) -> list[Any]:
    return [_to_data(value) for value in values]


def _to_data(value: Value) -> Any:
    if isinstance(value, RewardFailure):
        return {"kind": value.kind, "message": value.message[:MAX_MESSAGE_CHARACTERS]}
    return list(value) if isinstance(value, tuple) else value


def values_from_data(data: object, num_rows: int) -> list[Value]:
    """BadReply unless there is one value of a known kind for each row."""
    if not isinstance(data, list) or len(data) != num_rows:
        raise BadReply(f"a reply has no list of {num_rows} values")
    return [_from_data(value) for value in data]


def _from_data(value: object) -> Value:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list) and len(value) == 2:
        answer, truth = value
        if (answer is None or isinstance(answer, str)) and isinstance(truth, bool):
            return answer, truth
    if isinstance(value, dict):
        kind, message = value.get("kind"), value.get("message")
        if kind in get_args(FailureKind) and isinstance(message, str):
            return RewardFailure(cast(FailureKind, kind), message[:MAX_MESSAGE_CHARACTERS])
    raise BadReply(f"a value in a reply is no text, verdict or failure: {str(value)[:80]!r}")
