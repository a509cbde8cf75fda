"""Lists of words or numbers on the command line: `--best_of 3 6 8`, beside the JSON form `--best_of '[3, 6, 8]'`.

Given a config class; gives the dotted keys that hold such lists. `WordList` is the argparse action of these: it leaves
JSON behind, so that commas, quotes and backslashes in a word stay as they were typed. Given twice, a key takes both.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from raylign.jobs.config.keys import fields_of, is_collection, models_in

WORDS = (str, int, float, Path)
NULL = "null"


def word_list_keys(model: type[BaseModel], prefix: str = "") -> dict[str, type[WordList]]:
    """Keys that hold a list of words or numbers, each with the action that reads it."""
    keys: dict[str, type[WordList]] = {}
    for name, info in fields_of(model).items():
        members = _members(info.annotation)
        lists = [member for member in members if _is_word_list(member)]
        if lists:
            has_word = any(member in WORDS or get_origin(member) is Literal for member in members)
            is_of_numbers = all(item in (int, float) for item in _items_of(lists[0]))
            keys[f"{prefix}{name}"] = WordListOrWord if has_word else NumberList if is_of_numbers else WordList
        elif not is_collection(info.annotation):
            for section in models_in(info.annotation):
                keys |= word_list_keys(section, f"{prefix}{name}.")
    return keys


class WordList(argparse.Action):
    """All words up to the next option, or one JSON list."""

    may_be_one_word = False

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        words: Sequence[str] = values
        before = getattr(namespace, self.dest, None)
        if list(words) == [NULL] or (self.may_be_one_word and len(words) == 1 and not words[0].startswith("[")):
            setattr(namespace, self.dest, words[0])
            return
        items = self._items(parser, words, option)
        setattr(namespace, self.dest, json.dumps([*(_items_before(before)), *items], ensure_ascii=False))

    def _items(self, parser: argparse.ArgumentParser, words: Sequence[str], option: str | None) -> list[Any]:
        if not words[0].startswith("["):
            return list(words)
        text = " ".join(words)
        try:
            items: list[Any] = json.loads(text)
        except json.JSONDecodeError:
            parser.error(
                f"{option}: {text} is no JSON list; give the words one after another, or JSON, for instance "
                f"'[1, 2]' or '[\"a\", \"b\"]'"
            )
        return items


class NumberList(WordList):
    """Numbers, which commas may part as well: `--pass_at 1,4`."""

    def _items(self, parser: argparse.ArgumentParser, words: Sequence[str], option: str | None) -> list[Any]:
        items = super()._items(parser, words, option)
        return [part for item in items for part in (item.split(",") if isinstance(item, str) else [item])]


class WordListOrWord(WordList):
    """The same for a key that also takes one word (`all-linear`)."""

    may_be_one_word = True


def _items_before(text: str | None) -> list[Any]:
    """What the same option gave before."""
    return list(json.loads(text)) if text is not None and text.startswith("[") else []


def _members(annotation: Any) -> list[Any]:
    """Of a union, without annotations and None."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [member for part in get_args(annotation) if part is not NoneType for member in _members(part)]
    return [annotation]


def _is_word_list(annotation: Any) -> bool:
    if get_origin(annotation) not in (list, tuple):
        return False
    return all(item in WORDS or get_origin(item) is Literal for item in _items_of(annotation))


def _items_of(annotation: Any) -> list[Any]:
    return [member for part in get_args(annotation) if part is not Ellipsis for member in _members(part)]
