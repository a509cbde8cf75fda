"""Reading rows from where they are kept.

Given a source (file, folder or glob of files, `datasets` folder, Hugging Face id or `reasoning_gym:` task); gives its
rows as dicts, in their stored order, and notes on how they were read. Whatever is wrong with the source is a ValueError
that says where.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raylign.rollout.data.files import FILE_SUFFIXES, find_files, has_data_card, is_glob, splits_in, suffix_of
from raylign.rollout.data.json_files import read_json, read_jsonl
from raylign.rollout.data.procedural import PREFIX, generate_rows
from raylign.rollout.data.tables import drop_index_columns, read_table
from raylign.rollout.data.text_files import GIB, open_text
from raylign.rollout.hub import hub_is_reachable, looks_like_path, nearest

Row = dict[str, Any]

LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Reading:
    """How files are to be read; keys of `data`."""

    encoding: str | None = None
    delimiter: str | None = None
    max_unpacked_gib: float = 2.0


@dataclass
class RowsRead:
    """Rows, and what a user should know of how they were read."""

    rows: list[Row]
    notes: list[str] = field(default_factory=list)


def read_rows(
    source: str,
    subset: str | None = None,
    split: str = "train",
    num_generated: int = 10_000,
    generator_seed: int = 0,
    reading: Reading | None = None,
) -> list[Row]:
    """All rows of a source. `subset` and `split` are for `datasets`, the next two for procedural sources."""
    return read_source(source, subset, split, num_generated, generator_seed, reading or Reading()).rows


def read_source(
    source: str, subset: str | None, split: str, num_generated: int, generator_seed: int, reading: Reading
) -> RowsRead:
    """All rows of a source, with notes."""
    if source.startswith(PREFIX):
        return RowsRead(generate_rows(source, num_generated, generator_seed))
    path = Path(source).expanduser().absolute()
    if path.is_file():
        found = read_file(path, reading)
    elif path.is_dir() and is_saved_by_datasets(path):
        found = RowsRead(read_datasets_folder(path, split))
    elif path.is_dir() and has_data_card(path):
        found = RowsRead(read_hugging_face(str(path), subset, split), [f"{path}: read by its data card"])
    elif path.is_dir() or is_glob(source):
        files = find_files(path, split)
        parts = [read_file(file, reading) for file in files]
        shown = f"{files[0].name} to {files[-1].name}" if len(files) > 1 else files[0].name
        notes = [f"{len(files)} files in the order of their names: {shown}"]
        notes += dict.fromkeys(note for part in parts for note in part.notes)
        found = RowsRead([row for part in parts for row in part.rows], notes)
    elif not is_hugging_face_name(source):
        raise ValueError(f"data source not found: {path}")
    else:
        found = RowsRead(read_hugging_face(source, subset, split))
    if not found.rows:
        raise ValueError(f"{source}: no rows in it (empty)")
    return found


def is_hugging_face_name(source: str) -> bool:
    """Whether a source is neither generated nor a path."""
    is_path = Path(source).expanduser().exists() or looks_like_path(source) or suffix_of(source) is not None
    return not is_path and not is_glob(source) and not source.startswith(PREFIX)


def read_file(path: Path, reading: Reading) -> RowsRead:
    """Rows of one .jsonl (.ndjson), .json, .csv, .tsv (each also .gz) or .parquet file."""
    suffix = suffix_of(path.name)
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")
    if suffix is None:
        raise ValueError(f"{path}: do not know how to read this file; known endings: {', '.join(FILE_SUFFIXES)}")
    if not suffix.endswith(".gz"):
        with path.open("rb") as head:
            if head.read(len(LFS_POINTER)) == LFS_POINTER:
                raise ValueError(
                    f"{path}: a pointer of Git LFS stands in the place of the data; fetch it: git lfs pull"
                )
    if suffix == ".parquet":
        rows = _read_parquet(path, reading.max_unpacked_gib)
        return RowsRead(rows, drop_index_columns(rows, path.name))
    is_table = suffix.startswith((".csv", ".tsv"))
    # Tables know several line ends, JSON one.
    with open_text(path, reading.encoding, reading.max_unpacked_gib, newline="" if is_table else "\n") as file:
        if is_table:
            return RowsRead(*read_table(file, path, reading.delimiter))
        if suffix.startswith((".jsonl", ".ndjson")):
            return RowsRead(read_jsonl(file, path))
        return RowsRead(*read_json(file, path))


def _read_parquet(path: Path, max_unpacked_gib: float) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    rows: list[Row] = []
    num_bytes = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                num_bytes += batch.nbytes
                if num_bytes > max_unpacked_gib * GIB:
                    raise ValueError(
                        f"{path}: unpacks to more than {max_unpacked_gib:g} GiB; all rows are held in memory. Raise "
                        "data.max_unpacked_gib if that is right"
                    )
                rows += batch.to_pylist()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: a column of strings is not UTF-8 text ({error}); write it again") from error
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: not a readable Parquet file ({error})") from error
    return rows


def is_saved_by_datasets(path: Path) -> bool:
    """Whether `save_to_disk` wrote the folder."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def read_datasets_folder(path: Path, split: str) -> list[Row]:
    """Rows of a folder written by `datasets`' `save_to_disk`."""
    import datasets

    loaded = datasets.load_from_disk(str(path))
    if isinstance(loaded, datasets.DatasetDict):
        if split not in loaded:
            raise ValueError(f"{path}: no split {split!r}; there are {', '.join(loaded)}{nearest(split, loaded)}")
        loaded = loaded[split]
    rows: list[Row] = loaded.to_list()
    return rows


def split_names(source: str, subset: str | None) -> list[str]:
    """The splits that a source has; none where it has no such thing (a file, files that name none)."""
    path = Path(source).expanduser().absolute()
    if source.startswith(PREFIX) or path.is_file() or is_glob(source):
        return []
    if path.is_dir() and is_saved_by_datasets(path):
        import datasets

        loaded = datasets.load_from_disk(str(path))
        return list(loaded) if isinstance(loaded, datasets.DatasetDict) else []
    if path.is_dir() and not has_data_card(path):
        return splits_in(path)
    return list(_load_hugging_face(source, subset, None))


def read_hugging_face(name: str, subset: str | None, split: str) -> list[Row]:
    """Rows of a data set on the Hugging Face hub, in its local cache when the hub does not answer, or in a folder."""
    rows: list[Row] = _load_hugging_face(name, subset, split).to_list()
    return rows


def _load_hugging_face(name: str, subset: str | None, split: str | None) -> Any:
    """One split, or without a name all of them."""
    import datasets

    online = not Path(name).is_dir() and hub_is_reachable()
    offline_before = datasets.config.HF_HUB_OFFLINE
    # Its switch is read at import; set here, it goes to the cache at once instead of retrying for half a minute.
    datasets.config.HF_HUB_OFFLINE = not online
    try:
        return datasets.load_dataset(name, subset, split=split)
    except (OSError, ValueError) as error:
        asked = f"data set {name!r}" + (f", subset {subset!r}" if subset else "")
        asked += f", split {split!r}" if split else ""
        if Path(name).is_dir():
            raise ValueError(f"{asked}: the folder's data card (README.md) does not lead to it: {error}") from error
        reason = str(error) if online else f"the Hugging Face hub does not answer from here, and its cache: {error}"
        raise ValueError(f"{asked}: neither a file ({Path(name).absolute()}) nor loaded by name: {reason}") from error
    finally:
        datasets.config.HF_HUB_OFFLINE = offline_before
