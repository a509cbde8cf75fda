"""Help that fits on a page: the keys that matter first, those of a recipe, or those of a section.

Given a config class and what was asked for (`--help`, `--help all`, `--help learner`, with or without `--config`);
gives the page, or None where everything is to be printed: `--help all`, and commands that have few keys.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pydantic import BaseModel

from raylign.jobs.config.help import default_words, help_of_keys
from raylign.jobs.config.keys import is_collection, models_in, nearest, tags_of

ASKED = ("-h", "--help")
ALL = "all"
KEY_WIDTH, VALUE_WIDTH, LEAST_WIDTH = 40, 24, 120


@dataclass(frozen=True)
class HelpRequest:
    """What the words ask for."""

    topic: str
    """`all`, a section, a key; empty: the page of the command or of its recipes."""
    recipes: tuple[str, ...]


def help_request(words: Sequence[str]) -> HelpRequest | None:
    """None where no help is asked for."""
    place = next((place for place, word in enumerate(words) if word in ASKED), None)
    if place is None:
        return None
    behind = words[place + 1] if place + 1 < len(words) else ""
    recipes = [after for word, after in pairwise(words) if word == "--config"]
    recipes += [word.partition("=")[2] for word in words if word.startswith("--config=")]
    return HelpRequest("" if behind.startswith("-") else behind, tuple(recipes))


def help_page(
    model: type[BaseModel], request: HelpRequest, recipe: Mapping[str, Any], head: str, program: str
) -> str | None:
    """`recipe`: its values, merged; `head`: what it says of itself."""
    first_keys: tuple[str, ...] = getattr(model, "first_keys", ())
    if request.topic == ALL or not (request.topic or request.recipes or first_keys):
        return None
    texts = help_of_keys(model)
    if request.topic:
        return _page_of_topic(texts, request.topic, program)
    rest = (
        f"All {len(texts)} keys: {program} --help all; those of a section or one key: {program} --help learner; the "
        "resolved config: --print-config."
    )
    if not request.recipes:
        lines = [_paragraph(key, texts[key]) for key in first_keys]
        usage = f"usage: {program} [--config RECIPE.yaml ...] [--section.key VALUE ...]"
        doc = (model.__doc__ or "").strip().split("\n")[0]
        with_recipe = f"What a recipe sets, on one page: {program} --config grpo_arithmetic --help"
        return "\n".join([usage, "", doc, "", "The keys that matter first:", *lines, "", with_recipe, rest])
    given = {key: value for key, value in _leaves(recipe) if key in texts}
    own = [key for key in texts if key not in given and _is_of_chosen(model, recipe, key)]
    parts = [
        f"usage: {program} --config {' --config '.join(request.recipes)} [--section.key VALUE ...]",
        "",
        *head.split("\n"),
    ]
    parts += ["", "Set by the recipe:", *(_line(key, default_words(value), texts[key]) for key, value in given.items())]
    if own:
        parts += ["", "Other keys of what it chose, at their defaults:", *(_line(key, "", texts[key]) for key in own)]
    return "\n".join([*parts, "", rest])


def _page_of_topic(texts: Mapping[str, str], topic: str, program: str) -> str:
    """A section, or every key that ends with the word."""
    word = topic.removeprefix("--")
    found = [key for key in texts if key == word or key.startswith(f"{word}.")]
    found = found or [key for key in texts if key.rsplit(".", 1)[-1] == word]
    if not found:
        sections = sorted({key.split(".")[0] for key in texts})
        hint = nearest(word, [*texts, *sections])
        raise ValueError(
            f"--help {topic}: no such section or key" + (f"; did you mean {hint}?" if hint else "")
            + f" Sections: {', '.join(sections)}"
        )  # fmt: skip
    width = max(LEAST_WIDTH, shutil.get_terminal_size().columns)
    lines = [
        textwrap.fill(f"--{key}  {texts[key]}", width, initial_indent="  ", subsequent_indent=" " * 8) for key in found
    ]
    return "\n".join([f"usage: {program} [--section.key VALUE ...]", "", *lines])


def _is_of_chosen(model: type[BaseModel], recipe: Mapping[str, Any], key: str) -> bool:
    """Whether a key belongs to the member of a union that the recipe chose (its algorithm)."""
    section, _, name = key.partition(".")
    info = model.model_fields.get(section)
    given = recipe.get(section)
    if info is None or is_collection(info.annotation) or not isinstance(given, Mapping):
        return False
    members = models_in(info.annotation)
    if len(members) < 2:
        return False
    chosen = [each for each in members if any(given.get(tag) == value for tag, value in tags_of(each).items())]
    return any(name.split(".")[0] in each.model_fields for each in chosen)


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _paragraph(key: str, text: str) -> str:
    """At most two lines."""
    width = min(max(LEAST_WIDTH, shutil.get_terminal_size().columns), 140)
    return textwrap.fill(
        _cut(text, 2 * (width - KEY_WIDTH) - 20),
        width,
        initial_indent=f"{f'  --{key}':<{KEY_WIDTH}} ",
        subsequent_indent=" " * (KEY_WIDTH + 1),
    )


def _line(key: str, value: str, text: str) -> str:
    """One line: what does not fit is cut, since `--help KEY` has all of it."""
    width = max(LEAST_WIDTH, min(140, shutil.get_terminal_size().columns))
    start = f"  --{key}"
    value = value.replace("\n", "\\n")  # of a template
    if value:
        shown = value if len(value) <= VALUE_WIDTH else f"…{value[1 - VALUE_WIDTH :]}"  # of a path the end tells more
        start = f"{start:<{KEY_WIDTH}} {shown:<{VALUE_WIDTH}}"
        text = text.rpartition(" (default: ")[0] or text
    else:
        start = f"{start:<{KEY_WIDTH}}"
    room = max(20, width - len(start) - 1)
    return f"{start} {_cut(text, room)}"


def _cut(text: str, room: int) -> str:
    """The default stays where the sentence is cut."""
    if len(text) <= room:
        return text
    sentence, bracket, default = text.rpartition(" (default: ")
    behind = f"{bracket}{default}" if bracket and len(default) < 30 else ""
    return f"{(sentence or text)[: room - len(behind) - 2].rstrip()} …{behind}"
