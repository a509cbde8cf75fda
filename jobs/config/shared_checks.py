"""Checks that several configs share, and all problems in one error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def no_room_words(max_tokens: int, key: str, max_model_len: int) -> str:
    return f"sampling.max_tokens is {max_tokens}: with {key} = {max_model_len} no room is left for a prompt"


def all_the_same(section: str, num_completions: int) -> str:
    return (
        f"{section}.num_completions is {num_completions}: with temperature 0 all completions are the same; "
        "use 1, or a temperature above 0"
    )


def filled_folder(folder: Path, name: str, seed: int) -> Path:
    try:
        return Path(str(folder).format(name=name, seed=seed))
    except (LookupError, ValueError):
        raise ValueError(f"folder is {folder}: only {{name}} and {{seed}} can be filled in") from None


def raise_together(problems: Iterator[str]) -> None:
    """All problems in one error, one on each line."""
    if lines := list(problems):
        raise ValueError("\n".join(lines))
