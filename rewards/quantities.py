r"""Numbers as people and models write them: `−€5`, `1{,}234`, `½`, `1.5 million`, `3:4`, `(1,3)`, `3\sqrt{2}`.

Given a text, gives the quantities in it, each read whole and exactly: a number is never the last digits of something
longer. What is mathematics beyond these forms is `UNREAD`, which equals nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

MAX_DIGITS = 1000
"""Of a number; the longest that is read. Exact arithmetic on longer ones is no longer cheap."""
SCALES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}


@dataclass(frozen=True)
class Number:
    """An exact number: `factor`, times √`root` or π where there is one."""

    factor: Fraction
    root: str = ""


@dataclass(frozen=True)
class Ratio:
    """`3:4`. `12:30` may be a time of day, so equal ratios are only those written alike or in lower terms."""

    parts: tuple[int, ...]

    @property
    def is_clock(self) -> bool:
        """Written as times are: 12:30, 9:05:00."""
        hours, *rest = self.parts
        return hours < 24 and all(part < 60 for part in rest) and self.has_two_digits

    has_two_digits: bool = False
    """Whether each part after the first was written with two digits."""
    half: str = ""
    """am, pm, or neither."""


@dataclass(frozen=True)
class Several:
    """A tuple, an interval or a set: `(1,3)`, `[0,1)`, `{2,5}`; brackets empty: a bare list."""

    members: tuple[Number, ...]
    brackets: str = ""


@dataclass(frozen=True)
class Unread:
    """Something mathematical that these forms do not cover."""


UNREAD = Unread()
Quantity = Number | Ratio | Several | Unread


@dataclass(frozen=True)
class Found:
    """A quantity in its place in a (plain) text."""

    quantity: Quantity
    start: int
    end: int


# ---- plain text of LaTeX, Markdown and typography -------------------------------------------------------------------

_SPACES = dict.fromkeys(map(ord, "\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"), " ")
_NOTHING = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff"), "")
_SIGNS = dict.fromkeys(map(ord, "\u2212\u2010\u2011\u2012\u2013\ufe63\uff0d\u207b"), "-")
_TIMES = dict.fromkeys(map(ord, "\u00d7\u00b7\u22c5\u2217\u2022"), "*")
_OTHERS = {0x2044: "/", 0x2215: "/", 0x2019: "'", 0xFF0E: ".", 0xFF0C: ",", 0xFF05: "%", 0x00B1: "\u25c7"}
_PLAIN = _SPACES | _NOTHING | _SIGNS | _TIMES | _OTHERS
OPAQUE = "\u25c7"
"""Stands for mathematics that is not read."""

_LATEX: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\!"), ""),
    (re.compile(r"\\[,;: ]|\\q?quad\b|~"), " "),
    (re.compile(r"\\(?:left|right|displaystyle)(?![a-zA-Z])"), ""),
    (re.compile(r"\\[()\[\]]"), " "),
    (re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\(?:times|cdot)(?![a-zA-Z])"), "*"),
    (re.compile(r"\\(?:d|t|c)frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\^\s*\{?\s*(?:\\circ|\\degree)\s*\}?|\\degree\b"), " "),
    (re.compile(r"\\pm(?![a-zA-Z])"), OPAQUE),
    (re.compile(r"\\pi(?![a-zA-Z])"), "π"),
    (re.compile(r"\\sqrt\s*\{\s*(\d+)\s*\}|\\sqrt\s*(\d)|√\s*\(\s*(\d+)\s*\)"), lambda m: f"√{m[1] or m[2] or m[3]}"),
    (re.compile(r"\\frac\s*(\d)\s*(\d)(?!\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\([{}$%#&_])"), r"\1"),
]
_FRACTION = re.compile(r"(?P<before>\d\s*)?\\frac\s*\{(?P<top>[^{}]*)\}\s*\{(?P<bottom>[^{}]*)\}")
_OTHER_LATEX = re.compile(
    r"\\(?:frac|sqrt|binom|log|ln|sin|cos|tan|infty|cup|cap|sum|int)(?![a-zA-Z])(?:\s*\{[^{}]*\})*"
)
_SUPERSCRIPTS = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+")
_FOREIGN = re.compile("[^\x00-\x7f]")
_BLANKS = re.compile(r"\s{3,}")
_VULGAR = re.compile("[\u00bc-\u00be\u2150-\u215e]")


def plain(text: str) -> str:
    """The same text without LaTeX, Markdown and typography around its numbers."""
    if not text.isascii():
        text = _SUPERSCRIPTS.sub(lambda found: "^" + unicodedata.normalize("NFKC", found[0]), text)
        text = _VULGAR.sub(_written_out, text).translate(_PLAIN)
        text = _FOREIGN.sub(lambda found: _ascii_digit(found[0]), text)
    if "\\" in text or "{,}" in text:
        for pattern, replacement in _LATEX:
            text = pattern.sub(replacement, text)
        text = _FRACTION.sub(_fraction, text)
        text = _OTHER_LATEX.sub(OPAQUE, text)
    text = text.replace("**", "").replace("__", "")
    return _BLANKS.sub(lambda found: "\n\n" if "\n" in found[0] else "  ", text)  # so that matching stays linear


def _ascii_digit(character: str) -> str:
    return str(unicodedata.decimal(character)) if character.isdecimal() else character


def _written_out(found: re.Match[str]) -> str:
    value = Fraction(unicodedata.numeric(found[0])).limit_denominator(10)
    follows_digit = found.start() > 0 and found.string[found.start() - 1].isdigit()
    return f"{' ' if follows_digit else ''}{value.numerator}/{value.denominator}"


def _fraction(found: re.Match[str]) -> str:
    """`a/b` where both are plain; else something that is not read."""
    top, bottom = found["top"].strip(), found["bottom"].strip()
    before = found["before"] or ""
    if re.fullmatch(rf"-?(?:{_NUMBER}|(?:\d+\s*)?[√π]\d*)", top) and re.fullmatch(_NUMBER, bottom):
        return f"{before} {top}/{bottom}" if before else f"{top}/{bottom}"
    return before + OPAQUE


# ---- quantities -----------------------------------------------------------------------------------------------------

_NUMBER = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?:[ ]\d{3})+(?!\d)|\d{1,3}(?:'\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
_CURRENCY = "[$€£¥₹₽₩]"
_QUANTITY = re.compile(
    rf"""
    (?P<several>[(\[{{]\s*(?P<members>[-+.\d/√π\s$][-+.,;\d/√π\s$]*)[)\]}}])
    | (?P<clock>\d+(?::\d+)+|\d+\s:\s\d+) (?:\s?(?P<half>[aApP])\.?[mM]\b\.?)?
    | (?P<date>\d+(?:/\d+){{2,}} | \d{{4}}-\d\d-\d\d(?!\d) | \d+(?:\.\d+){{2,}}(?!\d))
    | (?P<sign>[-+](?=\s*(?:{_CURRENCY}\s*)?[\d.√π]))? (?:\s*(?P<currency>{_CURRENCY})\s*(?P<inner>-)?)?\s*
      (?:
        (?P<whole>\d+)\s+(?P<top>\d+)\s?/\s?(?P<bottom>\d+)
        | (?P<coefficient>{_NUMBER})?\s?\*?\s?(?:√(?P<root>\d+)|(?P<pi>π))(?:\s?/\s?(?P<root_bottom>\d+))?
        | (?P<upper>{_NUMBER})\s?/\s?(?P<lower>{_NUMBER})
        | (?P<number>{_NUMBER})
          (?: \s?[*x]\s?10\s?\^\s?\{{?\s?(?P<ten>[-+]?\d{{1,3}})\s?\}}?
            | [eE](?P<exponent>[-+]?\d{{1,3}})(?!\d)
            | \^\{{?\s?(?P<power>[-+]?\d{{1,4}})\s?\}}?
            | \s(?P<scale>thousand|million|billion|trillion)s?\b
            | (?P<kilo>[kK])(?![\w])
            | (?P<variable>[xyzi])(?=\s*(?:[-+*/^=)\]}}$.,;]|$))
          )?
      )
    | (?P<opaque>{OPAQUE})
    """,
    re.VERBOSE,
)
_FOOTNOTE = re.compile(r"(?<=[\w.%)])(?P<gap>\s?)\[\d{1,3}\](?!\s*[-+*/^=])")
_RAISED = re.compile(r"[\^_]\s*\{?\s*$")
_BETWEEN_OPERANDS = re.compile(r"[ ]*[-+*/][ ]*|[ ]*or[ ]*")
_WITH_VARIABLE = re.compile(r"(?<![^\W\d])[a-z]\s?[-+*/]\s?$")
_COMPARED = re.compile(r"(?:[≤≥≠]|\w\s[<>])\s*$|(?:^|[\s$(])[<>]=?$")
_APPLIED = re.compile(r"\b(?:log|ln|sin|cos|tan|sqrt|exp|mod|not)\s*\(?\s*$", re.I)
"""Of a function, or denied."""
_OPEN = re.compile(r"\+(?=[\s.,]|$)|\s?[≤≥≠]")
"""After a number: `6+` is six or more, `6 ≤ x` is no six."""
_COMMA = re.compile(r";|,\s|,(?!\d{3}(?!\d))")
CONTEXT = 24
"""Characters before a number that decide what it is."""
_BEFORE_MINUS = re.compile(r"(?:^|[=:(\[{,$*/]|\b(?:is|are|be|was|equals?|to|of|get|gives|as|and|or))\s*$")


def quantities(text: str, is_plain: bool = False) -> list[Found]:
    """All of them, in order; digits glued to letters (`CO2`, `x5`) only where there are no others."""
    text = text if is_plain else plain(text)
    text = _FOOTNOTE.sub(_without_footnote, text)
    weak: list[Found] = []
    strong: list[Found] = []
    for found, is_glued in _scan(text):
        (weak if is_glued else strong).append(found)
    return strong or weak


def _without_footnote(found: re.Match[str]) -> str:
    """`5 [1]` is a five with a footnote, and `is [5]` is a five."""
    before = found.string[max(0, found.start() - 12) : found.start()]
    is_answer = found["gap"] and re.search(r"\b(?:is|are|be|equals?|get|answer|gives)$", before)
    return found[0] if is_answer else " " * len(found[0])


def _scan(text: str) -> Iterator[tuple[Found, bool]]:
    """Every quantity, and whether it is glued to a letter."""
    position, previous_end = 0, 0
    while (match := _QUANTITY.search(text, position)) is not None:
        start, end = match.span()
        start += len(match[0]) - len(match[0].lstrip())
        position = end
        before = text[max(0, start - CONTEXT) : start]
        if _RAISED.search(before):  # an index, or the power of a letter: of a unit, or of a variable
            continue
        quantity = _quantity(match, before)
        is_operand = previous_end > 0 and start - previous_end < CONTEXT
        after_sign = start + (text[start] in "+-")
        if is_operand and _BETWEEN_OPERANDS.fullmatch(text[previous_end:after_sign]):
            quantity = UNREAD  # `2+5` is not five, and `5 or 3` is no answer
        elif (
            _is_part(match, before)
            or _OPEN.match(text, end)
            or _WITH_VARIABLE.search(text[max(0, start - CONTEXT) : after_sign])
        ):
            quantity = UNREAD
        previous_end = end
        yield Found(quantity, start, end), text[start].isdigit() and before[-1:].isalpha()


def _is_part(match: re.Match[str], before: str) -> bool:
    """Of a comparison, of what a function is applied to, of a denial, or of a term with a sign of its own."""
    has_two_signs = match["several"] is not None and before.endswith("-")
    return has_two_signs or any(pattern.search(before) for pattern in (_COMPARED, _APPLIED))


def _quantity(match: re.Match[str], before: str) -> Quantity:
    if match["opaque"] or match["date"]:
        return UNREAD
    if match["several"]:
        return _several(match["several"], match["members"])
    if match["clock"]:
        parts = [part.strip() for part in match["clock"].split(":")]
        if any(len(part) > MAX_DIGITS for part in parts):
            return UNREAD
        return Ratio(tuple(map(int, parts)), all(len(part) == 2 for part in parts[1:]), (match["half"] or "").lower())
    number = _number(match)
    if number is None or match["variable"]:
        return UNREAD
    return Number(-number.factor, number.root) if _is_negative(match, before) else number


def _is_negative(match: re.Match[str], before: str) -> bool:
    if match["inner"]:
        return True
    if match["sign"] != "-":
        return False
    trimmed = before.rstrip("*_ ") if before.endswith(("*", "_")) else before
    if match[0].lstrip()[1:2].isspace():  # `= - 5`, not `7 - 3` nor a list's `- 5`
        return bool(_BEFORE_MINUS.search(trimmed)) and not trimmed.endswith("\n")
    return not (trimmed and (trimmed[-1].isalnum() or trimmed[-1] in ")]}%"))


def _exact(text: str) -> Fraction | None:
    digits = re.sub(r"[,' ]", "", text)
    return Fraction(digits) if len(digits) <= MAX_DIGITS else None


def _number(match: re.Match[str]) -> Number | None:
    if match["number"]:
        value = _exact(match["number"])
        if value is None:
            return None
        if match["power"]:
            power = int(match["power"])
            if len(match["number"]) * abs(power) > MAX_DIGITS or (value == 0 and power < 0):
                return None
            return Number(value**power)
        shift = int(match["ten"] or match["exponent"] or SCALES.get(match["scale"] or "", 3 if match["kilo"] else 0))
        return Number(value * Fraction(10) ** shift)
    if match["top"]:
        parts = [_exact(match[name]) for name in ("whole", "top", "bottom")]
        if None in parts or not parts[2]:
            return None
        whole, top, bottom = (part for part in parts if part is not None)
        return Number(whole + top / bottom)
    if match["upper"]:
        above, below = _exact(match["upper"]), _exact(match["lower"])
        return None if above is None or not below else Number(above / below)
    factor, below = _exact(match["coefficient"] or "1"), _exact(match["root_bottom"] or "1")
    if factor is None or not below:
        return None
    return _with_root(factor / below, match["root"])


def _with_root(factor: Fraction, radicand: str | None) -> Number | None:
    """Square factors come out: √8 is 2√2."""
    if radicand is None:
        return Number(factor, "π")
    if len(radicand) > 6:
        return None
    inside, divisor = int(radicand), 2
    while divisor * divisor <= inside:
        while inside and inside % (divisor * divisor) == 0:
            inside //= divisor * divisor
            factor *= divisor
        divisor += 1
    return Number(factor * inside) if inside in (0, 1) else Number(factor, str(inside))


def _several(text: str, members: str) -> Quantity:
    """Members, or the one number that stands in brackets."""
    brackets = text[0] + text[-1]
    if re.fullmatch(rf"\s*[-+]?\s*\$?{_NUMBER}\s*", members):
        whole = _single(members)
        return whole if whole is not None else UNREAD
    numbers = [_single(member) for member in re.split("[,;]", members)]
    if len(numbers) < 2:
        whole = _single(members)
        return whole if whole is not None else UNREAD
    if any(number is None for number in numbers):
        return UNREAD
    return Several(tuple(number for number in numbers if number is not None), brackets)


def _single(text: str) -> Number | None:
    """The number that a text is, and nothing else."""
    found = _QUANTITY.match(text := text.strip())
    if found is None or found.end() != len(text):
        return None
    quantity = _quantity(found, "")
    return quantity if isinstance(quantity, Number) else None


def bare_list(text: str) -> Several | None:
    """`1, 3` as a list, where the text is nothing else; `1,234` is a number."""
    members = [_single(member) for member in _COMMA.split(text.strip().rstrip("."))]
    numbers = tuple(member for member in members if member is not None)
    return Several(numbers) if len(numbers) == len(members) > 1 else None


def same_quantity(left: Quantity, right: Quantity, tolerance: float = 0.0) -> bool:
    """Equal in exact arithmetic; plain numbers also within the tolerance."""
    if isinstance(left, Number) and isinstance(right, Number):
        if left.root != right.root:
            return left.factor == right.factor == 0
        return left.factor == right.factor or (
            not left.root and abs(left.factor - right.factor) <= Fraction(str(tolerance))
        )
    if isinstance(left, Ratio) and isinstance(right, Ratio):
        if left.half and right.half and left.half != right.half:
            return False
        if left.is_clock or right.is_clock or len(left.parts) != 2 or len(right.parts) != 2:
            return left.parts == right.parts
        return left.parts[0] * right.parts[1] == left.parts[1] * right.parts[0]
    if isinstance(left, Several) and isinstance(right, Several):
        if left.brackets and right.brackets and left.brackets != right.brackets:
            return False
        if "{}" in (left.brackets, right.brackets):
            return set(left.members) == set(right.members)
        return left.members == right.members
    return False
