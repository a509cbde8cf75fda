"""From a published program's command, or from its options on a command of ours, to our whole command line.

Given words as they were typed; gives a `Translation`: our command, ready to be pasted, and what a user should know of
each option: what has no counterpart and why, what could not be carried over.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from raylign.jobs.originals.command_words import Option, options_of, take_apart
from raylign.jobs.originals.pages import PLACEHOLDERS, Name, Row, all_rows
from raylign.jobs.originals.search import command_row, is_meant, is_same, key_row, names_of, page_of
from raylign.jobs.originals.values import ONLY_ONLINE, SAID_ONLY, SAID_WORDS, words_of

ON_NO_PAGE = "left out: it is on no page of docs/from_the_originals"


@dataclass
class Translation:
    """Ours."""

    page: str
    title: str
    """Of the page: which program it is."""
    words: list[str]
    """After `raylign`; empty where there is no counterpart."""
    notes: list[str] = field(default_factory=list)
    not_found: list[str] = field(default_factory=list)
    """Options that are on no page."""

    @property
    def line(self) -> str:
        """Ready to be pasted."""
        return shlex.join(["raylign", *self.words])


def translate_command(words: Sequence[str], rows: Sequence[Row] | None = None) -> Translation | None:
    """A whole command of an original; None where no page has its program."""
    rows = all_rows() if rows is None else rows
    typed = take_apart(words)
    found = command_row(typed, rows)
    if found is None:
        return None
    row, example = found
    if row.command is None:
        return Translation(row.page, row.title, [], [row.why])
    ours = Translation(row.page, row.title, shlex.split(row.command)[1:])
    if row.note:
        ours.notes.append(row.note)
    equal = [option for option in typed.options if option in example.options]
    named = {option.dashes + option.word for option in typed.options}
    for option in example.options:
        if option.dashes + option.word not in named:
            _take_out(ours, option, rows)
    examples = {option.word for option in example.options}
    _add(ours, [option for option in typed.options if option not in equal], rows, examples)
    return ours


def translate_options(
    command: str, known: Sequence[str], unknown: Sequence[str], rows: Sequence[Row] | None = None
) -> Translation | None:
    """Options of an original on a command of ours. `known`: the words that are ours. None where no page has any."""
    rows = all_rows() if rows is None else rows
    options = options_of(unknown)
    page = page_of(command, known, options, rows)
    if page is None:
        return None
    first = next(row for option in options if (row := key_row(option, page, command, rows)) is not None)
    base = shlex.split(first.base or "raylign train")[1:]
    in_our_command = " ".join(base).startswith(command)
    if in_our_command and "--config" in known:
        base = command.split()
    ours = Translation(page, first.title, base)
    if in_our_command:
        _put(ours.words, known)
    _add(ours, options, rows)
    return ours


def _add(ours: Translation, options: Sequence[Option], rows: Sequence[Row], examples: Iterable[str] = ()) -> None:
    """Each option's words of ours, and what its row says. `examples`: options that the row's example has."""
    command = _command_of(ours.words)
    batch_size = _batch_size(options)
    for option in options:
        row = key_row(option, ours.page, command, rows, _config_of(ours.words))
        if row is None or (row.base is not None and not row.base.startswith(f"raylign {command}")):
            _say_not_found(ours, option, row, rows, option.word in examples)
            continue
        is_about_value = any(is_meant(name, option) and name.value is not None and is_same(name.value, option.value)
                             for name in names_of(row))  # fmt: skip
        if row.ours == "none" and is_about_value:
            ours.words, ours.notes = [], [f"{option.as_typed}: {row.why}"]
            return
        words, why = _translated(ours, option, row, command, batch_size)
        _put(ours.words, words)
        if words and why:
            is_equal = shlex.join(words).replace("'", "") == option.as_typed
            ours.notes.append(
                f"{option.as_typed}: {why}" if is_equal else f"{option.as_typed}: {shlex.join(words)}: {why}"
            )
        elif not words:
            ours.notes.append(f"{option.as_typed}: left out: {why}")


def _translated(ours: Translation, option: Option, row: Row, command: str, batch_size: int) -> tuple[list[str], str]:
    """Words of ours, and why so or why none."""
    if option.word in ONLY_ONLINE and _config_of(ours.words) == "bdr_blueorca_redorca":
        return [], "it acts in BDR_Online alone (--selector_mode BDR_Online)"
    if {(ours.page, option.word), (ours.page, f"{option.word}@{command}")} & SAID_ONLY:
        return [], ": ".join(filter(None, [SAID_WORDS, f"ours is {shlex.join(row.keys)}", row.why]))
    if not row.keys:
        return [], row.why
    try:
        words = _words_of_option(ours, option, row, batch_size)
    except ValueError as error:
        return [], str(error)
    return words, row.why if words else row.why or "ours does so without a key"


def _say_not_found(ours: Translation, option: Option, row: Row | None, rows: Sequence[Row], in_example: bool) -> None:
    if row is not None:
        ours.notes.append(f"{option.as_typed}: left out: ours is a key of `{row.base}`")
        return
    others = [name.value for each in rows if each.page == ours.page for name in names_of(each)
              if is_meant(name, option) and name.value]  # fmt: skip
    if others:
        ours.notes.append(f"{option.as_typed}: left out: known there for {', '.join(others)} alone")
    elif not in_example:
        ours.notes.append(f"{option.as_typed}: {ON_NO_PAGE}")
    ours.not_found.append(option.word)


def _take_out(ours: Translation, option: Option, rows: Sequence[Row]) -> None:
    """What the example has and nobody typed: the recipe says it."""
    row = key_row(option, ours.page, _command_of(ours.words), rows, _config_of(ours.words))
    if row is None or option.value in PLACEHOLDERS or not row.keys:
        return
    for key in options_of(_words_of_option(Translation("", "", []), option, row, 64)):
        spelled = _spelled(key)
        first = next(
            (place for place in range(len(ours.words)) if ours.words[place : place + len(spelled)] == spelled), None
        )
        if first is not None and key.word != "config":
            del ours.words[first : first + len(spelled)]


def _words_of_option(ours: Translation, option: Option, row: Row, batch_size: int) -> list[str]:
    named = [name for name in row.names if is_meant(name, option)]
    word = f"-{option.word}" if named[0].dashes == "-" else option.word  # `-g` and `--g` are two options
    made = words_of(row.page, word, option.value, batch_size)
    if made is not None:
        return made
    if any(name.value is not None and is_same(name.value, option.value) for name in named):
        return row.keys  # the row is about this very value
    keys = options_of(row.keys)
    place = _place(named[0], row, keys)
    if option.value is None or (place is not None and not keys[place].values):
        return row.keys if place is None else _spelled(keys[place])
    if place is None:
        ours.notes.append(f"{option.as_typed}: put your value in the place of the example's")
        return row.keys
    changed = Option(keys[place].word, option.values)
    with_it = [changed if index == place else key for index, key in enumerate(keys)]
    is_shared = len(row.names) > 1 and len(keys) == len(row.names)
    return _spelled(changed) if is_shared else [word for key in with_it for word in _spelled(key)]


def _place(name: Name, row: Row, keys: Sequence[Option]) -> int | None:
    """Which key of ours takes the value: the one in the same place, the only one, or the one with the same example."""
    if len(row.names) == len(keys):
        return row.names.index(name)
    if len(keys) == 1 and not str(keys[0].value).startswith(("[", "{")):
        return 0
    same = [
        index for index, key in enumerate(keys) if name.example is not None and key.value == name.example.split(" ")[0]
    ]
    return same[0] if len(same) == 1 else None


def _spelled(option: Option) -> list[str]:
    return [f"--{option.word}", *option.values]


def _put(words: list[str], added: Sequence[str]) -> None:
    """Options replace those of the same name; a recipe replaces the recipe."""
    first = next((place for place, word in enumerate(words) if word.startswith("--")), len(words))
    kept, options = words[:first], options_of(words[first:])
    for option in options_of(added):
        place = next((place for place, each in enumerate(options) if each.word == option.word), None)
        if place is None:
            options.append(option)
        else:
            options[place] = option
    words[:] = kept + [word for option in options for word in _spelled(option)]


def _config_of(words: Sequence[str]) -> str:
    return next((word for before, word in pairwise(words) if before == "--config"), "")


def _command_of(words: Sequence[str]) -> str:
    """`train`, `data best-of-n`."""
    first = next((place for place, word in enumerate(words) if word.startswith("-")), len(words))
    return " ".join(words[:first])


def _batch_size(options: Sequence[Option]) -> int:
    """Examples of one step, by which counts of examples become counts of steps; 64 in the published commands."""
    typed = next((option.value for option in options if option.word == "batch_size"), None)
    return int(typed) if typed is not None and typed.isdigit() and int(typed) else 64
