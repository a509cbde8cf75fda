"""Pure functions that find the final answer in a text and compare two answers.

Given a completion or a reference, gives the answer inside it (None where there is none); given two answers,
whether they are equal, as text or as numbers.
"""

from __future__ import annotations

import re
from collections import deque
from decimal import Decimal
from typing import Literal

Comparison = Literal["exact", "numeric"]

# Thousands commas count only in groups of three; exponents are short, so that no number overflows Decimal.
_NUMBER = re.compile(
    r"(?P<sign>[-\u2212+](?=[\d.$]))?\$?(?P<inner>[-\u2212])?"
    r"(?P<digits>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE](?P<exponent>[-+]?\d{1,3})(?!\d))?"
)

_BRACE = re.compile(r"(?P<box>\\(?:boxed|fbox)\s*\{)|\\.|[{}]", re.DOTALL)  # \{ and \} are letters, not groups


def last_number(text: str) -> Decimal | None:
    """The last number in `text`: `= $1,234.50.` gives 1234.50; the minus in `7-3` is an operator."""
    matches = deque(_NUMBER.finditer(text), maxlen=1)
    if not matches:
        return None
    last = matches[0]
    start = last.start()
    follows_operand = start > 0 and (text[start - 1].isalnum() or text[start - 1] in ")]}")
    negative = last["inner"] is not None or (last["sign"] in ("-", "\u2212") and not follows_operand)
    digits = last["digits"].replace(",", "")
    number = Decimal(f"{digits}e{last['exponent']}" if last["exponent"] else digits)
    return -number if negative else number


def same_number(left: Decimal, right: Decimal, tolerance: float = 0.0) -> bool:
    """|left − right| ≤ tolerance, exactly: 5.0 and 5 are the same."""
    return left == right or abs(left - right) <= Decimal(tolerance)


def boxed(text: str) -> str | None:
    r"""What the last closed `\boxed{…}` (or `\fbox{…}`) holds, nested braces included."""
    last_start, content = -1, None
    openings: list[int] = []  # where each open brace's content starts; negative for braces of no box
    for token in _BRACE.finditer(text):
        if token[0] == "}":
            start = openings.pop() if openings else -1
            if start > last_start:
                last_start, content = start, text[start : token.start()].strip()
        elif token[0] == "{":
            openings.append(-1)
        elif token["box"]:
            openings.append(token.end())
    return content


def tagged(text: str, tag: str = "answer") -> str | None:
    """What the last closed `<tag>…</tag>` holds."""
    end = text.rfind(f"</{tag}>")
    start = text.rfind(f"<{tag}>", 0, max(end, 0))
    return None if start < 0 else text[start + len(tag) + 2 : end].strip()


def after_hash(text: str) -> str | None:
    """The rest of the line after the last `####`, as GSM8K writes its answers."""
    _, mark, rest = text.rpartition("####")
    line = rest.strip().split("\n", 1)[0].strip()
    return line if mark and line else None


def inside_open_tag(text: str, tag: str = "answer") -> str:
    """What follows the first `<tag>`, up to `</tag>` if it is closed; the whole stripped text without one."""
    _, mark, rest = text.partition(f"<{tag}>")
    return rest.partition(f"</{tag}>")[0].strip() if mark else text.strip()


def same_answer(answer: str, reference: str, comparison: Comparison, tolerance: float = 0.0) -> bool:
    """Equal as text (spaces at the ends aside), or as the last number in each."""
    if comparison == "exact":
        return answer.strip() == reference.strip()
    expected = last_number(reference)
    if expected is None:
        raise ValueError(f"reference {reference[:80]!r} holds no number to compare with")
    found = last_number(answer)
    return found is not None and same_number(found, expected, tolerance)
