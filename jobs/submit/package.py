"""What travels to the cluster with a job: raylign's code as it is here, the resolved recipe, and small files it names.

Given a `SubmitConfig` and a folder; fills the folder, which becomes the job's working directory. What cannot travel (a
model, a large file) is refused by its key before anything is sent.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

import raylign
from raylign.jobs.config.loading import ConfigError
from raylign.jobs.submit.config import TRAIN_KEYS, SubmitConfig

RECIPE = "submitted.yaml"
LARGEST_FILE_BYTES = 1 << 20
LEAVE_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".mypy_cache", ".ruff_cache")
OWN_KEYS = ("folder",)
"""Paths that are no files to read."""


def fill_package(config: SubmitConfig, folder: Path) -> None:
    """Code, recipe and files, below `folder`."""
    values = {key: value for key, value in config.model_dump(mode="json").items() if key in _written_keys()}
    files = files_to_carry(values)
    copy_code(folder)
    (folder / RECIPE).write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / file)


def copy_code(folder: Path) -> None:
    """The package itself, where `src/` holds links."""
    shutil.copytree(Path(raylign.__file__).parent, folder / "raylign", ignore=LEAVE_OUT)


def files_to_carry(values: dict[str, Any]) -> list[Path]:
    """Small files of this folder that the recipe names by relative paths; an error for what is there and too large."""
    found, problems = [], []
    for key, text in _texts(values, ""):
        path = _named_path(text)
        if key in OWN_KEYS or path is None:
            continue
        if path.is_file() and path.stat().st_size <= LARGEST_FILE_BYTES:
            found.append(path)
        else:
            what = "a folder" if path.is_dir() else f"a file of {path.stat().st_size >> 20:,} MiB"
            problems.append(
                f"{key} is {text}: {what} on this machine, which does not travel with the job; give an absolute path "
                "on a disk that all nodes share, or the id of a Hugging Face repository"
            )
    if problems:
        raise ConfigError("\n".join(problems))
    return sorted(set(found))


def _named_path(text: str) -> Path | None:
    """The relative path below this folder that a value names, also as `file.py:name`; None where it names none."""
    for word in (text, text.rpartition(":")[0]):
        path = Path(word)
        looks_like_one = word and len(word) < 1000 and "\n" not in word and ("/" in word or "." in word)
        if looks_like_one and not path.is_absolute() and ".." not in path.parts and path != Path() and path.exists():
            return path
    return None


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """All texts in a config, with their dotted keys."""
    if isinstance(value, dict):
        for name, child in value.items():
            yield from _texts(child, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for number, child in enumerate(value):
            yield from _texts(child, f"{key}[{number}]")
    elif isinstance(value, str):
        yield key, value


def _written_keys() -> set[str]:
    """As they are dumped: `async` is a field under another name."""
    return {SubmitConfig.model_fields[name].alias or name for name in TRAIN_KEYS}
