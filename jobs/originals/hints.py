"""What is said where somebody types a word of a published program to us.

Given the words of a command line; gives lines of an error: what the word is there, what becomes of it, and our whole
command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from raylign.jobs.originals.translate import ON_NO_PAGE, Translation, translate_command, translate_options


@dataclass(frozen=True)
class Hint:
    """Empty where no word is on a page."""

    lines: list[str] = field(default_factory=list)
    explained: frozenset[str] = frozenset()
    """Words that need no other error."""


def original_words_hint(command: str, words: Sequence[str], known: Sequence[str]) -> Hint:
    """`words`: all after the command. `known`: our keys."""
    ours, theirs = _parted(words, frozenset(known))
    found = translate_options(command, ours, theirs)
    if found is None:
        return Hint()
    names = [word for word in theirs if word.startswith("-") or "=" in word]
    explained = [word for word in names if word.lstrip("-").split("=")[0] not in found.not_found]
    subject = ", ".join(explained) or theirs[0]
    found.notes = [note for note in found.notes if not note.endswith(ON_NO_PAGE)]  # of those our nearest key is said
    return Hint([f"{subject}: unknown option; it is of {found.title}", *_lines(found)], frozenset(explained))


def original_command_lines(words: Sequence[str]) -> list[str]:
    """For a whole command of an original; empty where it is none."""
    found = translate_command(words)
    return [f"{words[0]}: unknown command; it is of {found.title}", *_lines(found)] if found is not None else []


def _lines(found: Translation) -> list[str]:
    return [*found.notes, *(["ours is:", found.line] if found.words else [])]


def _parted(words: Sequence[str], known: frozenset[str]) -> tuple[list[str], list[str]]:
    """Words of ours and of theirs, each with the values behind it."""
    ours: list[str] = []
    theirs: list[str] = []
    side, is_awaited = theirs, False
    for word in words:
        if word.startswith("--") or (word.startswith("-") and len(word) > 1 and word[1].isalpha()):
            side = ours if word.startswith("--") and word[2:].split("=")[0] in known else theirs
        elif "=" in word and word.split("=")[0].replace(".", "_").isidentifier() and not is_awaited:
            side = theirs
        is_awaited = side is ours and word.startswith("--")
        side.append(word)
    return ours, theirs
