"""Reading rows from where they are kept.

Given a source (file, `datasets` folder, Hugging Face id or `reasoning_gym:` task); gives its rows as dicts, in
their stored order. Whatever is wrong with the source is a ValueError that says where.
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from raylign.rollout.data.procedural import PREFIX, generate_rows
from raylign.rollout.hub import hub_is_reachable, looks_like_path, nearest

Row = dict[str, Any]

FILE_SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet", ".json", ".json.gz")


def read_rows(
    source: str,
    subset: str | None = None,
    split: str = "train",
    num_generated: int = 10_000,
    generator_seed: int = 0,
) -> list[Row]:
    """All rows of a source. `subset` and `split` are for `datasets`, the last two for procedural sources."""
    if source.startswith(PREFIX):
        return generate_rows(source, num_generated, generator_seed)
    path = Path(source).expanduser().absolute()
    if path.is_file():
        rows = read_file(path)
    elif path.is_dir():
        rows = read_datasets_folder(path, split)
    elif not is_hugging_face_name(source):
        raise ValueError(f"data source not found: {path}")
    else:
        rows = read_hugging_face(source, subset, split)
    if not rows:
        raise ValueError(f"{source}: no rows in it (empty)")
    return rows


def is_hugging_face_name(source: str) -> bool:
    """Whether a source is neither generated nor a path."""
    is_path = Path(source).expanduser().exists() or looks_like_path(source) or source.endswith(FILE_SUFFIXES)
    return not is_path and not source.startswith(PREFIX)


def read_file(path: Path) -> list[Row]:
    """Rows of one .jsonl, .json, .csv (each also .gz) or .parquet file."""
    name = path.name.lower()
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")
    if name.endswith(".parquet"):
        return _read_parquet(path)
    if not name.endswith(FILE_SUFFIXES):
        raise ValueError(f"{path}: do not know how to read this file; known endings: {', '.join(FILE_SUFFIXES)}")
    read = {"jsonl": _read_jsonl, "json": _read_json, "csv": _read_csv}[name.removesuffix(".gz").rsplit(".", 1)[1]]
    try:
        # utf-8-sig: spreadsheets put a byte-order mark before the first column's name.
        if name.endswith(".gz"):
            with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as file:
                return list(read(file, path))
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(read(file, path))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error})") from error
    except (gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{path}: broken gzip file ({error})") from error


def _read_jsonl(file: TextIO, path: Path) -> Iterator[Row]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            shown = line.strip()[:80]
            raise ValueError(f"{path}:{number}: not JSON: {error.msg} at column {error.colno}: {shown!r}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}:{number}: a row must be a JSON object, not {type(row).__name__}")
        yield row


def _read_json(file: TextIO, path: Path) -> Iterator[Row]:
    try:
        rows = json.load(file)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: a .json file must hold one list of objects (one object a line is .jsonl)")
    yield from rows


def _read_csv(file: TextIO, path: Path) -> Iterator[Row]:
    """Values stay text, as written: `007` is not 7."""
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(file, strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) != len(header) or not all(header):
            raise ValueError(f"{path}:1: the header needs different, non-empty column names, not {header}")
        for cells in reader:
            if cells and len(cells) != len(header):
                raise ValueError(f"{path}:{reader.line_num}: {len(cells)} values for {len(header)} columns {header}")
            if cells:
                yield dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.line_num}: broken CSV: {error}") from error


def _read_parquet(path: Path) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows: list[Row] = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: not a readable Parquet file ({error})") from error
    return rows


def read_datasets_folder(path: Path, split: str) -> list[Row]:
    """Rows of a folder written by `datasets`' `save_to_disk`."""
    if not (path / "dataset_dict.json").is_file() and not (path / "dataset_info.json").is_file():
        raise ValueError(f"{path}: a folder, but not one that `datasets` saved (save_to_disk); give a file in it")
    import datasets

    loaded = datasets.load_from_disk(str(path))
    if isinstance(loaded, datasets.DatasetDict):
        if split not in loaded:
            raise ValueError(f"{path}: no split {split!r}; there are {', '.join(loaded)}{nearest(split, loaded)}")
        loaded = loaded[split]
    rows: list[Row] = loaded.to_list()
    return rows


def read_hugging_face(name: str, subset: str | None, split: str) -> list[Row]:
    """Rows of a data set on the Hugging Face hub, or in its local cache when the hub does not answer."""
    import datasets

    online = hub_is_reachable()
    offline_before = datasets.config.HF_HUB_OFFLINE
    # Its switch is read at import; set here, it goes to the cache at once instead of retrying for half a minute.
    datasets.config.HF_HUB_OFFLINE = not online
    try:
        loaded = datasets.load_dataset(name, subset, split=split)
    except (OSError, ValueError) as error:
        asked = f"data set {name!r}" + (f", subset {subset!r}" if subset else "") + f", split {split!r}"
        reason = str(error) if online else f"the Hugging Face hub does not answer from here, and its cache: {error}"
        raise ValueError(f"{asked}: neither a file ({Path(name).absolute()}) nor loaded by name: {reason}") from error
    finally:
        datasets.config.HF_HUB_OFFLINE = offline_before
    rows: list[Row] = loaded.to_list()
    return rows
