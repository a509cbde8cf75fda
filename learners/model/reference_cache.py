"""log π_ref of rows, kept on disk: the reference never changes, so each row goes through it once.

Given examples and their log-probs; gives them back in later epochs, in a resumed run, and in every run that shares the
folder. Each rank writes a file of its own and reads all of them.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from raylign.learners.examples.example import Example


class ReferenceCache:
    """By content, so that it holds for any order, epoch and number of ranks. False while it holds nothing."""

    def __init__(self, folder: Path, rank: int, model_path: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._model = identity_of(model_path).encode()
        self._known: dict[bytes, np.ndarray] = {}
        for path in sorted(folder.glob("rank*.sqlite")):
            self._known |= _read(path)
        self._database = sqlite3.connect(folder / f"rank{rank}.sqlite")
        self._database.execute("create table if not exists logps (key blob primary key, value blob)")

    def __bool__(self) -> bool:
        return bool(self._known)

    def get(self, example: Example) -> np.ndarray | None:
        """(T,) log π_ref, or None where it is not known."""
        return self._known.get(self._key(example))

    def put(self, found: Sequence[tuple[Example, np.ndarray]]) -> None:
        """Keep these; completions sampled in the run never come again and are left out."""
        rows = {
            self._key(example): np.asarray(logps, np.float32)
            for example, logps in found
            if example.token_versions is None
        }
        self._known |= rows
        with self._database:
            self._database.executemany(
                "insert or replace into logps values (?, ?)", [(key, value.tobytes()) for key, value in rows.items()]
            )

    def _key(self, example: Example) -> bytes:
        digest = hashlib.blake2b(self._model, digest_size=16)
        for ids in (example.prompt_ids, example.completion_ids):
            digest.update(len(ids).to_bytes(8, "little"))
            digest.update(np.ascontiguousarray(ids, np.int32).tobytes())
        return digest.digest()


def _read(path: Path) -> dict[bytes, np.ndarray]:
    """What a rank kept; nothing where its file has only just been made."""
    with closing(sqlite3.connect(path)) as database:
        if not database.execute("select 1 from sqlite_master where name = 'logps'").fetchone():
            return {}
        rows = database.execute("select key, value from logps")
        return {key: np.frombuffer(value, np.float32) for key, value in rows}


def identity_of(model_path: str) -> str:
    """A model folder's name with sizes and times of its weights: another model in its place is another identity."""
    files = sorted(Path(model_path).glob("*.safetensors")) if Path(model_path).is_dir() else []
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return f"{Path(model_path).absolute() if files else model_path} {stats}"
