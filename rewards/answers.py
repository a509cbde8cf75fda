r"""Pure functions that find the final answer in a text and compare two answers.

Given a completion or a reference, gives the answer inside it (None where there is none): what stands in the last
`\boxed{…}`, after `####`, in `<answer>…</answer>`, behind "the answer is"; else its last quantity. Given two answers,
whether they are equal: as text, or as quantities, each compared whole (rewards/quantities.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

from raylign.rewards.quantities import (
    UNREAD,
    Quantity,
    Several,
    Unread,
    bare_list,
    plain,
    quantities,
    same_quantity,
)

Comparison = Literal["exact", "numeric"]

WINDOW = 4000
"""Characters of a text that are looked at for its answer: its end. A completion may be very long."""
_BRACE = re.compile(r"(?P<box>\\(?:boxed|fbox)\s*\{)|\\.|[{}]", re.DOTALL)  # \{ and \} are letters, not groups
_ANSWER_LINE = re.compile(
    r"^[ \t*#>_]*(?:the )?(?:final |correct )?(?:answer|ans|a|result)[*_]*\s?[:=][*_]*", re.I | re.M
)
_ANSWER_IS = re.compile(r"\banswer(?: [\w']+){0,4}? (?:is|was|equals|=)\b:?", re.I)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")
_DIRECTLY = re.compile(r"[\s*:$~≈(]*(?:(?:approximately|about|exactly|therefore|thus|just|only|now|simply)\s+)?[\s*$]*")
_MATHEMATICS = re.compile(r"[\\+*^=<>≤≥√|{}]")
_LETTER_POWER = re.compile(r"(?<=[^\W\d])\s?\^\s?\{?-?\d+\}?")


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


def marked(text: str) -> str | None:
    r"""What stands where answers are put: the last of `\boxed{…}`, `####` and `<answer>…</answer>`."""
    places = (
        (max(text.rfind(r"\boxed"), text.rfind(r"\fbox")), boxed),
        (text.rfind("####"), after_hash),
        (text.rfind("</answer>"), tagged),
    )
    for place, find in sorted(places, key=lambda each: each[0], reverse=True):
        if place >= 0 and (found := find(text)):
            return found[-WINDOW:]
    return None


def answer_sentence(text: str) -> str | None:
    """The rest of the sentence after the last "answer:" that begins a line, or "the answer is"."""
    starts = [match.end() for pattern in (_ANSWER_LINE, _ANSWER_IS) for match in pattern.finditer(text)]
    for start in sorted(starts, reverse=True):
        rest = text[start : start + WINDOW]
        end = _SENTENCE_END.search(rest)
        sentence = rest[: end.start() if end else WINDOW]
        if sentence.strip(" *_$"):
            return sentence
    return None


def answer_of(completion: str) -> Quantity | None:
    """The quantity that a completion gives as its answer."""
    if (segment := marked(completion)) is not None and (found := of_segment(segment)) is not None:
        return found
    if (sentence := answer_sentence(completion)) is not None and (found := _of_sentence(sentence)) is not None:
        return found
    completion = completion[-WINDOW:]
    return bare_list(plain(completion)) or _last(completion)


def of_segment(segment: str) -> Quantity | None:
    """The quantity of what was marked as the answer; of several, the last."""
    return one_quantity(segment[-WINDOW:]) or _last(segment[-WINDOW:])


def _of_sentence(sentence: str) -> Quantity | None:
    """`5, as 2 people share 10` gives 5; `2 + 3 = 5` the right side."""
    if (whole := one_quantity(sentence)) is not None:
        return whole
    text = plain(sentence).rpartition("=")[2]
    found = quantities(text, is_plain=True)
    if not found:
        return None
    first = found[0]
    is_direct = _DIRECTLY.fullmatch(text[: first.start]) is not None
    if is_direct and not (len(found) > 1 and re.fullmatch(r"\s*[-+*/]?\s*", text[first.end : found[1].start])):
        return first.quantity
    return found[-1].quantity


def _last(text: str) -> Quantity | None:
    found = quantities(text)
    return found[-1].quantity if found else None


def one_quantity(text: str) -> Quantity | None:
    """The single quantity that a text is about, units and words aside; None where there are none, or several."""
    text = plain(text).rpartition("=")[2]
    if (several := bare_list(text)) is not None:
        return several
    found = quantities(text, is_plain=True)
    if len(found) != 1:
        return None
    rest = f"{text[: found[0].start]} {text[found[0].end :]}"
    return UNREAD if _MATHEMATICS.search(_LETTER_POWER.sub("", rest)) else found[0].quantity


@lru_cache(4096)
def reference_quantity(reference: str) -> Quantity:
    """What a reference asks for; ValueError where that is not one number, ratio, time or tuple."""
    segment = marked(reference) or reference
    found = one_quantity(segment)
    if found is None and segment is reference and (sentence := answer_sentence(reference)) is not None:
        found = one_quantity(sentence)
    if found is None and not quantities(segment):
        raise ValueError(f"reference {reference[:80]!r} holds no number to compare with")
    if found is None or isinstance(found, Unread):
        raise ValueError(
            f"reference {reference[:80]!r} is no single number, fraction, ratio, time or tuple, so it is not compared "
            "by its last one; use the reward math_verify, or exact"
        )
    return found


def same_answer(
    answer: str,
    reference: str,
    comparison: Comparison,
    tolerance: float = 0.0,
    find: Callable[[str], Quantity | None] = of_segment,
) -> bool:
    """Equal as text (spaces at the ends aside), or as quantities: exactly, or plain numbers within the tolerance.

    `find`: how the quantity is found in `answer`; `answer_of` where that is a whole completion.
    """
    if comparison == "exact":
        return answer.strip() == reference.strip()
    expected = reference_quantity(reference)
    found = find(answer)
    return found is not None and same_quantity(_fitting(found, expected), expected, tolerance)


def _fitting(found: Quantity, expected: Quantity) -> Quantity:
    """A bare list is a tuple where a tuple is asked for; else it is its last member, as in `1, 2, 3`."""
    if isinstance(found, Several) and not found.brackets and not isinstance(expected, Several):
        return found.members[-1]
    return found
