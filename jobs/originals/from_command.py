"""`raylign from "<original command>"`: our command line for one of a published program.

Given the command as its README has it, or a few words of a page of docs/from_the_originals; prints ours, ready to be
pasted, and to the standard error what has no counterpart and why.
"""

from __future__ import annotations

import shlex
import sys

from pydantic import BaseModel

from raylign.jobs.originals.pages import Row, all_rows
from raylign.jobs.originals.search import find_rows
from raylign.jobs.originals.translate import Translation, translate_command

MOST_ROWS = 8
WHAT_TO_GIVE = (
    'give the original one in quotes, as in raylign from "cdpo dpo -p DDP --beta 0.1", or a few words of a table of '
    "docs/from_the_originals"
)


class FromConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """Our command for one of the programs that the algorithms were published with."""

    command: str = ""
    """The original command, as in `raylign from "cdpo dpo -p DDP --beta 0.1"`; or a few words to look for in the tables
    of docs/from_the_originals."""


def print_ours(config: FromConfig) -> int:
    """0 where there is a counterpart."""
    if not config.command.strip():
        raise ValueError(f"there is no command to look for: {WHAT_TO_GIVE}")
    try:
        words = shlex.split(config.command)
    except ValueError as error:
        raise ValueError(f"{config.command!r} cannot be read as a command: {error}") from None
    found = translate_command(words)
    if found is not None:
        return _print_translation(found)
    rows = find_rows(config.command)
    if not rows:
        pages = ", ".join(dict.fromkeys(row.title for row in all_rows()))
        raise ValueError(f"{config.command!r} is on no page of docs/from_the_originals; there are pages for {pages}")
    for row in rows[:MOST_ROWS]:
        _print_row(row)
    if len(rows) > MOST_ROWS:
        print(f"and {len(rows) - MOST_ROWS} more rows: add a word", file=sys.stderr)
    return 0


def _print_translation(found: Translation) -> int:
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    if not found.words:
        print(f"error: {found.title} has it, raylign has no counterpart", file=sys.stderr)
        return 2
    print(found.line)
    return 0


def _print_row(row: Row) -> None:
    print(f"{row.title}: {row.original.replace('`', '')}", file=sys.stderr)
    if row.why:
        print(f"  {row.why}", file=sys.stderr)
    if row.command:
        print(row.command)
