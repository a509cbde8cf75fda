r"""The letter of an option, as models write it: `C`, `(C)`, `C.`, `**C**`, `option C`, `\text{C}`, `C) Paris`.

Given a text, gives the letter that it answers with; None where it names none, or several as its answer.
"""

from __future__ import annotations

import re

from raylign.rewards.answers import WINDOW, answer_sentence, marked

_DRESS = re.compile(r"\\(?:text|textbf|mathrm|mathbf|boxed)\s*\{\s*([^{}]*)\}|[*_`$]+")
_LEAD = r"(?:(?:the )?(?:correct |right |final |best )?(?:answer|option|choice)(?: is)?[ ]?:?[ ]?){0,3}"
_ALONE = re.compile(rf"\s*{_LEAD}[(\[]?\s*(?P<letter>[A-Za-z])\s*(?:[)\].:,]+(?:\s.*)?)?\s*", re.I | re.S)
_NAMED = re.compile(r"\b(?:option|choice)(?: is)?\s*:?\s*[(\[]?(?P<letter>[A-Za-z])\b(?!')", re.I)
_IN_BRACKETS = re.compile(r"[(\[](?P<letter>[A-Z])[)\]]")
_FINAL = re.compile(r"(?:^|\s)(?P<letter>[A-Z])[.)]?\s*$")


def choice(text: str) -> str | None:
    """The letter, upper case."""
    segment = marked(text)
    if segment is not None:
        return _letter(segment)
    sentence = answer_sentence(text)
    if sentence is not None and (letter := _letter(sentence)) is not None:
        return letter
    return _letter(text[-WINDOW:])


def _letter(text: str) -> str | None:
    text = re.sub(r"\s+", " ", text)
    bare = _DRESS.sub(lambda found: f" {found[1]} " if found[1] is not None else "", text).strip()
    if (alone := _ALONE.fullmatch(bare)) is not None and not _names_another(bare, alone["letter"]):
        return alone["letter"].upper()
    if letters := {found["letter"].upper() for found in _NAMED.finditer(bare)}:
        return letters.pop() if len(letters) == 1 else None
    final = _FINAL.search(bare)
    if final is not None and not bare[: final.start()].rstrip().endswith((" or", " and", "not", ",", "/")):
        return final["letter"]
    letters = {found["letter"] for found in _IN_BRACKETS.finditer(bare)}
    return letters.pop() if len(letters) == 1 else None


def _names_another(text: str, letter: str) -> bool:
    """`(A) or (B)`, `A, B`."""
    others = {found[1] for found in re.finditer(r"(?:^|[\s(\[,/])([B-HJ-Z])(?=[)\].,:/\s]|$)", text[1:])}
    return bool(others - {letter.upper()})
