"""What a user's function gives back, as scores: a number, None, a dict, a tuple or an object for each completion.

Given any value and how many completions there were; gives one `Score` for each. Further numbers become parts of it,
also those that a function of TRL's form logs beside (`Logged`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raylign.rewards.base import Graded, RewardFailure, Score, typed_scores

SCORE_KEYS = ("score", "reward", "rewards")


def read_scores(values: Any, num_completions: int) -> list[Score]:
    """What a function gave back for a group, in any of the forms, as scores."""
    if isinstance(values, Mapping):
        return _of_mapping(values, num_completions)
    if isinstance(values, str | bytes) or not hasattr(values, "__iter__"):
        return typed_scores(values, num_completions)
    if isinstance(values, tuple) and values and isinstance(values[0], list):  # (scores, something beside)
        message = f"gave back a tuple that begins with a list, expected a list of {num_completions} numbers"
        return [RewardFailure("exception", message)] * num_completions
    return typed_scores([_of_value(value) for value in values], num_completions)


def _of_mapping(values: Mapping[str, Any], num_completions: int) -> list[Score]:
    """OpenRLHF: {"rewards": […], "scores": […], "extra_logs": {name: […]}}."""
    key = next((key for key in ("rewards", "scores") if key in values), None)
    if key is None:
        message = f"gave back a dict with {', '.join(map(str, values)) or 'nothing'}, expected `rewards`"
        return [RewardFailure("exception", message)] * num_completions
    scores = read_scores(list(values[key]), num_completions)
    logs = {
        str(name): column
        for name, each in dict(values.get("extra_logs") or {}).items()
        if (column := _column(each, len(scores))) is not None
    }
    return [
        score
        if isinstance(score, RewardFailure)
        else Graded.of(float(score), {name: each[index] for name, each in logs.items()})
        for index, score in enumerate(scores)
    ]


def _of_value(value: Any) -> Any:
    """One completion's: a number, None, {"score": …, …}, or (number, …)."""
    if value is None:
        return RewardFailure("not_applicable", "the function gave None")
    if isinstance(value, Mapping):
        key = next((key for key in SCORE_KEYS if key in value), None)
        if key is None:
            return RewardFailure("exception", f"gave back a dict with {', '.join(map(str, value))}, expected `score`")
        return _graded(value[key], {str(name): part for name, part in value.items() if name != key})
    if hasattr(value, "_asdict"):
        return _of_value(value._asdict())
    if hasattr(value, "score") and hasattr(value, "__dict__"):  # a dataclass, a pydantic model, an object
        return _of_value(vars(value) | {"score": value.score})
    if isinstance(value, tuple | list) and value:
        first, *rest = value
        parts: dict[str, Any] = {}
        for index, part in enumerate(rest, 2):
            parts |= (
                {str(name): each for name, each in part.items()} if isinstance(part, Mapping) else {str(index): part}
            )
        return _graded(first, parts)
    return value


def _graded(score: Any, parts: Mapping[str, Any]) -> Any:
    (typed,) = typed_scores([_of_value(score) if score is None else score], 1)
    return typed if isinstance(typed, RewardFailure) else Graded.of(typed, parts)


def _column(values: Any, count: int) -> list[Any] | None:
    """Of each completion: one value for all of them, or one for each; None where there are others."""
    if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
        return [values] * count
    return list(values) if len(values) == count else None


class Logged:
    """What TRL's functions log beside their scores: `log_metric(name, value)`, `log_extra(column, values)`."""

    def __init__(self) -> None:
        self._columns: dict[str, Any] = {}

    def log_metric(self, name: str, value: Any) -> None:
        """One number for the group."""
        self._columns[str(name)] = value

    def log_extra(self, column: str, values: Sequence[Any]) -> None:
        """One value for each completion; texts are not kept."""
        self._columns[str(column)] = values

    def added_to(self, scores: list[Score]) -> list[Score]:
        """The scores with what was logged as further numbers."""
        columns = {name: each for name, v in self._columns.items() if (each := _column(v, len(scores))) is not None}
        if not columns:
            return scores
        return [
            score
            if isinstance(score, RewardFailure)
            else Graded.of(score, getattr(score, "parts", {}) | {name: each[place] for name, each in columns.items()})
            for place, score in enumerate(scores)
        ]
