r"""Strict readings of an answer: `#### 72`, `\boxed{…}`, `<answer>…</answer>`, the whole text, its number.

Given a reply, each gives its answer in one way of writing, so that equal answers are equal texts; None where the form
is not kept. Stricter than the rewards `hash` and `tag`, which forgive: here "####72" and "#### $72" are no answers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction

from raylign.rewards.answers import WINDOW, answer_of, boxed, tagged
from raylign.rewards.choices import choice
from raylign.rewards.quantities import Number, Ratio, Several
from raylign.rewards.tasks.latex import plain_mathematics

MARK = "#### "
_NUMBER = re.compile(r"-?[0-9.,]+")
_LED_BY_LETTER = re.compile(r"[(\[]?(?P<letter>[A-Za-z])[)\].:]+\s")
_PLAIN_NUMBER = re.compile(r"-?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")


def number_text(text: str) -> str | None:
    """`1,234.50` as `1234.5`; None for what is no number in digits."""
    bare = text.replace(",", "")
    if _PLAIN_NUMBER.fullmatch(bare) is None:
        return None
    whole, _, decimals = bare.lstrip("-").partition(".")
    whole, decimals = whole.lstrip("0") or "0", decimals.rstrip("0")
    written = f"{whole}.{decimals}" if decimals else whole
    return f"-{written}" if bare.startswith("-") and written != "0" else written


def hash_number(text: str) -> str | None:
    """The number directly behind the last `#### ` that has one."""
    end = len(text)
    while (start := text.rfind(MARK, 0, end)) >= 0:
        if (found := _NUMBER.match(text, start + len(MARK))) is not None:
            return number_text(found[0])
        end = start + len(MARK) - 1  # marks may overlap: `##### 5` holds one
    return None


def hash_text(text: str) -> str | None:
    """The rest of the line behind the last `#### `."""
    _, mark, rest = text.rpartition(MARK)
    return (rest.split("\n", 1)[0].strip() or None) if mark else None


def boxed_mathematics(text: str) -> str | None:
    """What the last box holds, in plain notation."""
    content = boxed(text)
    return (plain_mathematics(content) or None) if content is not None else None


def boxed_text(text: str) -> str | None:
    return boxed(text) or None


def tag_text(tag: str) -> Callable[[str], str | None]:
    """What the last closed tag holds, over several lines too."""

    def read(text: str) -> str | None:
        return tagged(text, tag) or None

    return read


def whole_text(text: str) -> str | None:
    return text.strip() or None


def last_number(text: str) -> str | None:
    """The quantity that the reply gives as its answer, marked or not."""
    found = answer_of(text)
    if isinstance(found, Number):
        return _written(found)
    if isinstance(found, Ratio):
        return ":".join(map(str, found.parts)) + found.half
    if isinstance(found, Several):
        return f"{found.brackets[:1]}{','.join(map(_written, found.members))}{found.brackets[1:]}"
    return None


def _written(number: Number) -> str:
    return f"{number.factor}{f'√{number.root}' if number.root else ''}"


def same_number(answer: str, label: str, tolerance: float) -> bool:
    """Equal texts, or numbers that differ by less than the tolerance."""
    if answer == label:
        return True
    try:
        difference = abs(_value(answer) - _value(label))
    except (ValueError, OverflowError, ZeroDivisionError):
        return False
    return math.isfinite(difference) and difference < tolerance


def _value(text: str) -> float:
    return float(Fraction(text)) if "/" in text else float(text)


def option_in(text: str, options: tuple[str, ...], ignore_case: bool) -> str | None:
    """Which of the options a label names, however it is dressed: `C`, `(C)`, `C. Paris`, `option C`, `yes`."""
    bare = text.strip()[-WINDOW:]
    for option in options:
        if bare == option or (ignore_case and bare.casefold() == option.casefold()):
            return option
    if all(len(option) == 1 and option.isalpha() for option in options):
        # `C. Vitamins A, D and E`: what an option says is no letter of another
        led = _LED_BY_LETTER.match(bare)
        letter = led["letter"].upper() if led is not None else choice(bare)
        return next((option for option in options if option.upper() == letter), None)
    return None
