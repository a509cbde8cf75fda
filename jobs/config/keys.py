"""The keys of a config class, and pydantic's errors said in terms of them.

Given a config class; gives its dotted keys, the nearest known key to a misspelt one, and one readable line for
each problem: where it stands, the key, the value, what is allowed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

KeyPath = tuple[str | int, ...]


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant; a right last part in the wrong section counts."""
    known = list(known)
    last = name.rsplit(".", 1)[-1]
    same_last = [key for key in known if key.rsplit(".", 1)[-1] == last]
    close = difflib.get_close_matches(name, same_last or known, n=1, cutoff=0.0 if same_last else 0.6)
    if not close:
        by_last = {key.rsplit(".", 1)[-1]: key for key in reversed(known)}
        close = [by_last[match] for match in difflib.get_close_matches(last, by_last, n=1, cutoff=0.75)]
    return close[0] if close else None


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """All config classes inside a type: `X | None`, `list[X]`, unions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def fields_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Fields by the word that users write: `async` is one of Python's, so the attribute has another name."""
    return {info.alias or name: info for name, info in model.model_fields.items()}


def tags_of(model: type[BaseModel]) -> dict[str, Any]:
    """Keys with one allowed value, which choose this class in a union of config classes."""
    return {
        key: literals[0] for key, info in fields_of(model).items() if len(literals := _literals(info.annotation)) == 1
    }


def dotted_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every key that a flag or recipe may set, items of lists and mappings left out."""
    keys: dict[str, None] = {}
    for name, info in fields_of(model).items():
        inside = [] if is_collection(info.annotation) else models_in(info.annotation)
        for sub_model in inside:
            keys |= dict.fromkeys(dotted_keys(sub_model, f"{prefix}{name}."))
        if not inside:
            keys[f"{prefix}{name}"] = None
    return list(keys)


def is_collection(annotation: Any) -> bool:
    """Whether its items have no flags of their own."""
    return get_origin(annotation) in (list, dict)


def _literals(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def readable_problems(
    model: type[BaseModel], error: ValidationError, places: Sequence[dict[KeyPath, str]]
) -> list[str]:
    """One line per problem. `places`: where keys stand, the winning source first."""
    problems: list[str] = []
    for path, details in _by_key(model, error).items():
        place = _place(path, places)
        key = ".".join(map(str, path))
        if place == f"--{key}":
            place, key = "", place
        for line in _sentence(model, key, path, details).split("\n"):
            problems.append(f"{place}: {line}" if place else line)
    return problems


def _by_key(model: type[BaseModel], error: ValidationError) -> dict[KeyPath, list[ErrorDetails]]:
    """Errors by key path: a value that fits no member of a union has one for each member."""
    result: dict[KeyPath, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        result.setdefault(_locate(model, detail)[0], []).append(detail)
    return result


def _locate(model: type[BaseModel], detail: ErrorDetails) -> tuple[KeyPath, list[str]]:
    """The key path without pydantic's marks of union members, and the names allowed beside its last key."""
    path: list[str | int] = []
    candidates = [model]
    *parents, last = detail["loc"] or ("",)
    unknown = detail["type"] == "extra_forbidden"
    for step in parents if unknown else detail["loc"]:
        annotations = [fields[step].annotation for fields in map(fields_of, candidates) if step in fields]
        if annotations or isinstance(step, int):
            path.append(step)
        if annotations:
            candidates = [inner for annotation in annotations for inner in models_in(annotation)]
        else:
            candidates = [each for each in candidates if step in tags_of(each).values()] or candidates
    names = list(dict.fromkeys(name for each in candidates for name in fields_of(each)))
    return (*path, last) if unknown else tuple(path), names


def _sentence(model: type[BaseModel], key: str, path: KeyPath, details: list[ErrorDetails]) -> str:
    detail, siblings = details[0], _locate(model, details[0])[1]
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "value_error":  # one of our own checks; those across the whole config name their keys
        return f"{key}: {context['error']}" if key else str(context["error"])
    if kind == "extra_forbidden":
        hint = _meant(model, path, siblings)
        return f"{key}: unknown key; " + (f"did you mean {hint}?" if hint else f"known: {', '.join(siblings)}")
    if kind == "union_tag_invalid":
        allowed = [tag.strip("' ") for tag in str(context["expected_tags"]).split(",")]
        hint = nearest(str(context["tag"]), allowed)
        return (
            f"{key}.{str(context['discriminator']).strip(chr(39))}: {context['tag']!r} is unknown; "
            + (f"did you mean {hint}? " if hint else "")
            + f"allowed: {', '.join(allowed)}"
        )
    if kind == "union_tag_not_found":
        return f"{key}: {str(context['discriminator']).strip(chr(39))} is missing"
    if kind == "missing":
        return f"{key}: is missing"
    wanted = " or ".join(dict.fromkeys(each["msg"].removeprefix("Input should be ") for each in details))
    return f"{key}: {detail['input']!r} is not allowed, it should be {wanted}"


def _meant(model: type[BaseModel], path: KeyPath, siblings: list[str]) -> str | None:
    """The key that an unknown one stands for: the same word in another section, else the nearest beside it."""
    word = str(path[-1])
    # keys of list items have no names of their own elsewhere
    elsewhere = [] if any(isinstance(step, int) for step in path) else dotted_keys(model)
    same_word = [key for key in elsewhere if key.rsplit(".", 1)[-1] == word]
    if not same_word and (beside := nearest(word, siblings)):
        return ".".join(map(str, (*path[:-1], beside)))
    return nearest(".".join(map(str, path)), same_word or elsewhere)


def _place(path: KeyPath, places: Sequence[dict[KeyPath, str]]) -> str:
    """Where the key, or the nearest section above it that some source gave, stands; may be empty."""
    prefixes = (path[:length] for length in range(len(path), 0, -1))
    return next((layer[prefix] for prefix in prefixes for layer in places if prefix in layer), "")
