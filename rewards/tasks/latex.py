r"""One way of writing for answers in LaTeX: `\dfrac12`, `\frac{1}{2}` and `1/2` become the same text.

Given what a box holds, gives the same without spaces, units and dress. Two answers are compared as these texts, as the
data set MATH does it; `math_verify` is the reward that compares them as mathematics.
"""

from __future__ import annotations

import re

_DRESS = re.compile(r"\\(?:left|right|displaystyle)(?![a-zA-Z])|\\[!,;: ]|\\q?quad(?![a-zA-Z])|~|\s+")
_DEGREES = re.compile(r"\^\{?\\circ\}?|\\degree(?![a-zA-Z])")
_SIGNS = re.compile(r"\\?[$%]")
_UNIT = re.compile(r"(?<=[0-9}])\\(?:text|mbox|mathrm)\{[^{}]*\}(?:\^\{?[0-9]\}?)?$")
_WORDS = re.compile(r"\\(?:text|textbf|textit|mbox|mathrm|mathbf)\{([^{}]*)\}")
_SHORT_FRACTION = re.compile(r"\\frac(?:\{([^{}]*)\}|([0-9a-zA-Z]))(?:\{([^{}]*)\}|([0-9a-zA-Z]))")
_SHORT_ROOT = re.compile(r"\\sqrt([0-9a-zA-Z])")
_SLASH = re.compile(r"(-?)([0-9]+)/([0-9]+)")
_THOUSANDS = re.compile(r"-?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?")
_DECIMAL = re.compile(r"(-?)([0-9]*)\.([0-9]*)")


def plain_mathematics(text: str) -> str:
    """The normal form of an answer."""
    text = _DRESS.sub("", text).replace("{,}", ",").replace("\u2212", "-")
    text = re.sub(r"\\[dtc]frac(?![a-zA-Z])", r"\\frac", text)
    text = _SIGNS.sub("", _DEGREES.sub("", text))
    text = _WORDS.sub(r"\1", _UNIT.sub("", text)).rstrip(".")
    left, equals, right = text.partition("=")
    if equals and len(left) <= 2 and right:  # `x=5`, as the last line of a solution has it
        text = right
    text = _SHORT_FRACTION.sub(lambda found: _fraction(found[1] or found[2], found[3] or found[4]), text)
    text = _SHORT_ROOT.sub(r"\\sqrt{\1}", text)
    if (slash := _SLASH.fullmatch(text)) is not None:
        return slash[1] + _fraction(slash[2], slash[3])
    if _THOUSANDS.fullmatch(text) is not None:
        text = text.replace(",", "")
    if (decimal := _DECIMAL.fullmatch(text)) is not None and (decimal[2] or decimal[3]):
        decimals = decimal[3].rstrip("0")
        text = f"{decimal[1]}{decimal[2] or '0'}{'.' + decimals if decimals else ''}"
    return text


def _fraction(top: str, bottom: str) -> str:
    return f"\\frac{{{top}}}{{{bottom}}}"
