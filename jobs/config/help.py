"""What `--help` says of each key: its sentence and the default that is used.

Given a config class; gives a text for each dotted key, and one about the keys of items of lists, which have no flags.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin

from pydantic import BaseModel

from raylign.jobs.config.defaults import REQUIRED, default_of
from raylign.jobs.config.keys import fields_of, is_collection, models_in, tags_of


@dataclass(frozen=True)
class _Said:
    """What one config class says of a key."""

    key: str
    member: str
    """Name of the union's member that has it; "" for the default member and outside of unions."""
    sentence: str
    default: str


def help_of_keys(model: type[BaseModel]) -> dict[str, str]:
    """By dotted key. Members of a union that differ in a key are named with what they say."""
    by_key: dict[str, dict[str, list[_Said]]] = {}
    for said in _keys_of(model, None):
        by_key.setdefault(said.key, {}).setdefault(said.sentence, []).append(said)
    return {
        key: " ".join(_joined(same, len(by_sentence) > 1) for same in by_sentence.values())
        for key, by_sentence in by_key.items()
    }


def _keys_of(model: type[BaseModel], instance: BaseModel | None, prefix: str = "", member: str = "") -> Iterator[_Said]:
    """`instance`: what the section is where nothing is given, if that is of this class."""
    for name, info in model.model_fields.items():
        word = info.alias or name
        key = f"{prefix}{word}"
        default = default_of(info) if instance is None else getattr(instance, name)
        sections = [] if is_collection(info.annotation) else models_in(info.annotation)
        if not sections and not (member and word in tags_of(model)):
            yield _Said(key, member, info.description or "", default_words(default))
        for section in sorted(sections, key=lambda section: not isinstance(default, section)):  # the default one first
            is_default = isinstance(default, section)
            of_union = "" if is_default or len(sections) == 1 else ", ".join(map(str, tags_of(section).values()))
            yield from _keys_of(section, default if is_default else None, f"{key}.", of_union or member)


def _joined(same: list[_Said], names_members: bool) -> str:
    """One sentence and its defaults: the usual one, then those of members that have another."""
    usual, sentence = same[0].default, same[0].sentence
    if names_members and same[0].member:
        sentence = f"{', '.join(said.member for said in same)}: {sentence}"
    differing = [f"{said.member}: {said.default}" for said in same if said.default != usual]
    default = "; ".join([usual, *differing])
    return f"{sentence} {_in_brackets(default)}".strip()


def _in_brackets(default: str) -> str:
    return f"({default})" if default == REQUIRED_WORD else f"(default: {default})"


REQUIRED_WORD = "required"


def default_words(default: Any) -> str:
    """As a flag would say it."""
    if default is REQUIRED:
        return REQUIRED_WORD
    if isinstance(default, str | Path):
        return str(default) or "''"
    if isinstance(default, list | tuple):
        default = [each.model_dump(mode="json") if isinstance(each, BaseModel) else each for each in default]
    return json.dumps(default, ensure_ascii=False, default=str)


def describe_item_keys(model: type[BaseModel]) -> str:
    """Help for the keys of items of lists and mappings, which have no flags of their own (rewards)."""
    blocks: dict[str, str] = {}
    for key, annotation in _collections_of_models(model):
        example = '[{"name": ...}]' if get_origin(annotation) is list else '{"NAME": {...}}'
        block = "".join(_describe(item) for item in models_in(annotation))
        same = next((other for other, text in blocks.items() if text.endswith(block)), None)
        block = f"\n    as items of {same}\n" if same else block
        blocks[key] = f"items of {key}, in a recipe or as --{key} '{example}':\n{block}"
    return "\n".join(blocks.values())


def _collections_of_models(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, info in fields_of(model).items():
        if is_collection(info.annotation) and models_in(info.annotation):
            yield f"{prefix}{name}", info.annotation
        else:
            for sub_model in models_in(info.annotation):
                yield from _collections_of_models(sub_model, f"{prefix}{name}.")


def _describe(item: type[BaseModel]) -> str:
    summary = (item.__doc__ or "").strip().split("\n")[0]
    tags = tags_of(item)
    tag = next(iter(tags.values()), "")
    lines = [f"\n  {tag or item.__name__}: {summary}\n"]
    for name, info in fields_of(item).items():
        if name in tags:
            continue
        default = _in_brackets(default_words(default_of(info)))
        lines.append(
            textwrap.fill(
                f"{name}  {info.description or ''} {default}",
                100,
                initial_indent=" " * 6,
                subsequent_indent=" " * 12,
            )
            + "\n"
        )
    return "".join(lines)
