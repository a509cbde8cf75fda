"""Which files a folder or a glob means.

Given a path and the split that is wanted; gives the files in the order of their names. Files whose names tell splits
apart (`train-00000-of-00002.parquet`, `test/part.jsonl`) are chosen by them; nothing is guessed where they disagree.
"""

from __future__ import annotations

import glob
import re
from pathlib import Path

from raylign.rollout.hub import nearest

TEXT_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
FILE_SUFFIXES = (*TEXT_SUFFIXES, ".parquet", *(f"{suffix}.gz" for suffix in TEXT_SUFFIXES))
NOT_DATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "metadata.json")
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}


def suffix_of(name: str) -> str | None:
    """The ending that says how a file is read; None for one that is not known."""
    return next((suffix for suffix in FILE_SUFFIXES if name.lower().endswith(suffix)), None)


def is_glob(source: str) -> bool:
    """Whether a source stands for files by a pattern."""
    return glob.has_magic(source)


def has_data_card(folder: Path) -> bool:
    """Whether the folder is a hub's data set that says itself which files are which split."""
    card = folder / "README.md"
    return card.is_file() and "\ndata_files:" in re.sub(r"\n[ -]*", "\n", card.read_text("utf-8", "replace")[:100_000])


def find_files(path: Path, split: str) -> list[Path]:
    """Data files below a folder, or those that a glob names."""
    if path.is_dir():
        files = _files_below(path)
        if not files:
            raise ValueError(f"{path}: a folder without data files ({', '.join(FILE_SUFFIXES)})")
        files = _of_split(files, path, split)
    else:
        files = [Path(file) for file in sorted(glob.glob(str(path), recursive=True)) if Path(file).is_file()]
        if not files:
            raise ValueError(f"data source not found: no file is named like {path}")
    suffixes = {(suffix_of(file.name) or file.suffix).removesuffix(".gz") for file in files}
    if len(suffixes) > 1:
        raise ValueError(
            f"{path}: files of several kinds ({', '.join(sorted(suffixes))}), maybe the same rows twice; name those "
            f"that are meant by a glob, for instance {path if path.is_dir() else path.parent}/*{min(suffixes)}"
        )
    return files


def splits_in(folder: Path) -> list[str]:
    """The splits that a folder's files name."""
    return sorted({name for file in _files_below(folder) if (name := _split_of(file.relative_to(folder)))})


def _files_below(folder: Path) -> list[Path]:
    below = [file for file in sorted(folder.rglob("*")) if suffix_of(file.name) and file.name not in NOT_DATA]
    return [file for file in below if not any(part.startswith(".") for part in file.relative_to(folder).parts)]


def _of_split(files: list[Path], folder: Path, split: str) -> list[Path]:
    splits = {file: _split_of(file.relative_to(folder)) for file in files}
    known = sorted({name for name in splits.values() if name})
    if not known:
        return files
    wanted = SPLIT_WORDS.get(split, split)
    if unnamed := [file for file in files if splits[file] is None]:
        raise ValueError(
            f"{folder}: some files name a split ({', '.join(known)}) and {unnamed[0].name} names none; name those that "
            "are meant by a glob"
        )
    if wanted not in known:
        raise ValueError(f"{folder}: no files of split {split!r}; there are {', '.join(known)}{nearest(split, known)}")
    return [file for file in files if splits[file] == wanted]


def _split_of(path: Path) -> str | None:
    """By the last word of its path that names one."""
    words = re.split(r"[^a-z]+", str(path).lower())
    return next((SPLIT_WORDS[word] for word in reversed(words) if word in SPLIT_WORDS), None)
