"""Rewards with a regular expression: `regex` (an answer found by a pattern) and `format` (the shape of the text).

Given completions, give 1.0 for a match and 0.0 otherwise. A pattern can backtrack for ever with the interpreter
lock held, so both run in killable processes.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Literal

from pydantic import field_validator

from raylign.rewards.base import Item, KillableConfig, PointwiseReward

_NO_TAG = r"(?:(?!</?(?:think|answer)>).)*"
THINK_ANSWER = rf"\s*<think>{_NO_TAG}</think>\s*<answer>{_NO_TAG}</answer>\s*"


def _compiled(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    return pattern


class RegexConfig(KillableConfig):
    """1 if the pattern is found; with a group in it, 1 if the last match's first group equals a reference."""

    name: Literal["regex"] = "regex"
    """Which reward."""
    pattern: str
    """Python regular expression, searched anywhere; `.` matches newlines too."""

    _check_pattern = field_validator("pattern")(_compiled)


class FormatConfig(KillableConfig):
    """1 if the whole completion has the wanted shape."""

    name: Literal["format"] = "format"
    """Which reward."""
    pattern: str = THINK_ANSWER
    """Regular expression for the whole text; default: <think>…</think>, then <answer>…</answer>, nothing else."""

    _check_pattern = field_validator("pattern")(_compiled)


class RegexReward(PointwiseReward):
    can_hang = True

    def __init__(self, config: RegexConfig) -> None:
        self._pattern = re.compile(config.pattern, re.DOTALL)

    def score_one(self, completion: str, item: Item, index: int) -> float:
        if not self._pattern.groups:
            return float(self._pattern.search(completion) is not None)
        if not item.references:
            raise ValueError("the prompt has no reference to compare with; set data.reference")
        matches = deque(self._pattern.finditer(completion), maxlen=1)
        found = matches[0].group(1) if matches else None
        return float(found is not None and any(found.strip() == reference.strip() for reference in item.references))


class FormatReward(PointwiseReward):
    can_hang = True

    def __init__(self, config: FormatConfig) -> None:
        self._pattern = re.compile(config.pattern, re.DOTALL)

    def score_one(self, completion: str, item: Item, index: int) -> float:
        return float(self._pattern.fullmatch(completion) is not None)
