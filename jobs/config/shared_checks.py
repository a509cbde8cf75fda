"""Checks that several configs share, and all problems in one error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

LONGEST_NAME = 200
"""Bytes; a file system takes 255, and some files have the name with an ending."""


def no_room_words(max_tokens: int, key: str, max_model_len: int) -> str:
    return f"sampling.max_tokens is {max_tokens}: with {key} = {max_model_len} no room is left for a prompt"


def all_the_same(section: str, num_completions: int) -> str:
    return (
        f"{section}.num_completions is {num_completions}: with temperature 0 all completions are the same; "
        "use 1, or a temperature above 0"
    )


def filled_folder(folder: Path, name: str, seed: int) -> Path:
    """The folder with the name in it, which is one part of a path and no more."""
    if problem := name_problem(name):
        raise ValueError(f"name is {name[:80]!r}: {problem}; it names a folder, so write letters, digits, - and _")
    try:
        return Path(str(folder).format(name=name, seed=seed))
    except (LookupError, ValueError):
        raise ValueError(f"folder is {folder}: only {{name}} and {{seed}} can be filled in") from None


def name_problem(name: str) -> str | None:
    """Why a name cannot be one part of a path that people and programs meet again."""
    if name in (".", "..") or "/" in name or "\0" in name:
        return "it leads elsewhere"
    if not name.strip() or name != name.strip():
        return "it begins or ends with a space" if name.strip() else "it is empty"
    if not name.isprintable():
        return "it has a line break or another character that is not seen"
    if set(name) & set("{}"):
        return "only folder has {name} and {seed} filled in"
    if len(name.encode("utf-8", "replace")) > LONGEST_NAME:
        return f"it is longer than {LONGEST_NAME} bytes"
    return None


def raise_together(problems: Iterator[str]) -> None:
    """All problems in one error, one on each line."""
    if lines := list(problems):
        raise ValueError("\n".join(lines))
