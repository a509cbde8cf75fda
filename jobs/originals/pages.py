"""The tables of docs/from_the_originals/ as data: which command or key of a published program is which of ours.

Given the pages as they are written for readers (the package carries them too); gives one `Row` for each line of their
tables. A row of a table headed "original command" is a whole command; one of a table headed "original" is a key, on top
of the command that stands above the table.
"""

from __future__ import annotations

import importlib.resources
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

CODE = re.compile(r"`([^`]+)`")
WITHOUT_KEY = ("none", "always")
HEADERS = ("original", "original command")
PLACEHOLDERS = frozenset({"MODEL", "DATASET", "TAG", "TYPE:N", "PREFIX", "INDEX"})
"""In the place of a user's own value."""
_NAME = re.compile(r"(-{0,2})([A-Za-z_][\w.]*)(?:(?:=|: | )(.+))?")


@dataclass(frozen=True)
class Name:
    """A word of the original, `loss=bonbon` or `beta`."""

    word: str
    """Without dashes."""
    value: str | None = None
    """The value that the row is about; None where it is about any."""
    dashes: str = ""
    """Those that it is written with: `-p` and `--p` are two options."""
    example: str | None = None
    """A value that stands behind the word: its default, or that of the example."""


@dataclass(frozen=True)
class Row:
    """One row of a table of a page."""

    page: str
    """`sail`."""
    place: str
    """Page and line: `sail.md:9`."""
    title: str
    """Heading of the page: which program it is about."""
    original: str
    ours: str
    note: str
    base: str | None
    """The command that keys are added to; None in a table of whole commands."""

    @property
    def command(self) -> str | None:
        """Ours, whole; None where the row says that there is nothing."""
        spans = CODE.findall(self.ours)
        if self.base is None or (spans and spans[0].startswith("raylign ")):
            return spans[0] if spans else None
        keys = " ".join(spans)
        if "--config " in keys:
            return f"{self.base.split(' --')[0]} {keys}"
        return f"{self.base} {keys}" if keys else None

    @property
    def keys(self) -> list[str]:
        """Words of ours that are added to the base; all of them where the row has a whole command."""
        spans = CODE.findall(self.ours)
        words = shlex.split(" ".join(spans))
        return words if not words or words[0] != "raylign" else _without_base(words)

    @property
    def names(self) -> list[Name]:
        """The original's words in the first column. Empty where it is prose."""
        return _names(self.original)

    @property
    def commands(self) -> list[list[str]]:
        """Of a table of whole commands: the original's, in words."""
        return [shlex.split(span.replace("…", "")) for span in CODE.findall(self.original)]

    @property
    def why(self) -> str:
        """What a reader is told beside the key."""
        words = {"none": "no counterpart", "always": "always so, without a key"}.get(self.ours, "")
        return ": ".join(filter(None, [words, self.note]))


@cache
def all_rows() -> tuple[Row, ...]:
    """Of all pages, in their order."""
    folder = importlib.resources.files("raylign.jobs.originals") / "pages"
    pages = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".md")), key=lambda entry: entry.name)
    return tuple(row for page in pages for row in rows_of_page(page.name, page.read_text(encoding="utf-8")))


def rows_of_page(file_name: str, text: str) -> Iterator[Row]:
    """All tables of one page. A table without one of the two headers is no table of words."""
    base, in_table, title, kind = None, False, "", ""
    for number, line in enumerate(text.splitlines(), 1):
        place = f"{file_name}:{number}"
        if line.startswith("# "):
            title = line[2:].strip()
        if not line.startswith("|"):
            in_table = False
            commands = [code for code in CODE.findall(line) if code.startswith("raylign ")]
            base = commands[-1] if commands else base
            continue
        cells = cells_of(line)
        if not in_table:
            in_table, kind = True, cells[0]
        elif kind in HEADERS and not line.startswith("|---"):
            assert len(cells) == 3, f"{place}: three cells"
            original, ours, note = cells
            row_base = None if kind == "original command" else base
            yield Row(file_name.removesuffix(".md"), place, title, original, ours, note, row_base)


def cells_of(line: str) -> list[str]:
    """Of a table's line; `\\|` is a bar within a cell."""
    inner = line.strip().removeprefix("|").removesuffix("|")
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", inner)]


def _names(cell: str) -> list[Name]:
    found: list[Name] = []
    parts = re.split(r"(`[^`]+`)", cell)
    for place in range(1, len(parts), 2):
        span, behind = parts[place].strip("`"), parts[place + 1]
        matched = _NAME.fullmatch(span)
        before = found[-1] if found else None
        is_value = before is not None and (span.startswith("[") or (before.value is not None and span[0] != "-"))
        if before is not None and is_value and (matched is None or matched[3] is None):
            if before.value is None:
                found.pop()
            found.append(Name(before.word, span, before.dashes))
        elif matched is not None:
            value = None if matched[3] in PLACEHOLDERS else matched[3]
            found.append(Name(matched[2], value, matched[1], _example(behind)))
    return found


def _example(text: str) -> str | None:
    """`(0.5)`, `0 (64 in the commands)`, `"3,6,8"` behind a word."""
    matched = re.match(r'\s*(?:\(([^()]*)\)|"([^"]*)"|([\w.+−-]+))', text)
    found = next((group for group in matched.groups() if group is not None), None) if matched else None
    return found.strip('"').replace("−", "-") if found is not None else None


def _without_base(words: Sequence[str]) -> list[str]:
    first = next((place for place, word in enumerate(words) if word.startswith("--")), len(words))
    return list(words[first:])
