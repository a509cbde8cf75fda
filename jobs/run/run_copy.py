"""A run folder's copy in object storage or on another disk: complete or not there.

Given an address (`s3://bucket/folder`, `gs://…`, `file:///…`: what `pyarrow.fs` opens); uploads what is new of a run
folder, a checkpoint's `complete.json` after all its other files, and brings the folder back on a machine that lost it.
Credentials come from the environment, as the storage's own tools read them; no address may hold them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as fs

from raylign.jobs.run.checkpoints import CheckpointStore
from raylign.rewards.addresses import refuse_secrets, without_secrets

COMPLETE = "complete.json"
NOT_COPIED = (".lock", ".tmp-", ".replaced-")
"""Beginnings of names: a lock is the machine's, the others are half-written."""
JOURNAL = "experience/journal.log"
_CHUNK_BYTES = 8 << 20


class RunCopyError(ValueError):
    """The copy cannot be reached, written or read; the message has the address and what the storage said."""


class RunCopy:
    """One run at one address."""

    def __init__(self, address: str) -> None:
        """Raises `RunCopyError` for an address that nothing opens, or that holds a secret."""
        self.address = without_secrets(address)
        try:
            refuse_secrets(urlsplit(address), "the environment has them, such as AWS_SECRET_ACCESS_KEY")
        except ValueError as error:
            raise RunCopyError(f"{self.address} {error}") from None
        with self._naming("cannot be opened"):
            self._files, root = fs.FileSystem.from_uri(address)
        self._root = root.rstrip("/")
        self._uploaded: dict[str, tuple[int, int]] = {}
        """Size and time of change in ns, by the path in the folder."""

    def check(self) -> None:
        """Raise unless a file can be written there."""
        place = f"{self._root}/.tmp-can-write"
        with self._naming("cannot be written"):
            self._files.create_dir(self._root, recursive=True)
            with self._files.open_output_stream(place) as file:
                file.write(b"raylign")
            self._files.delete_file(place)

    def holds_a_run(self) -> bool:
        """Whether a run was copied there."""
        with self._naming("cannot be read"):
            return bool(self._files.get_file_info(f"{self._root}/config.yaml").is_file)

    def steps(self) -> list[int]:
        """Of the complete checkpoints, in order."""
        return sorted(int(path.split("/")[1].removeprefix("step-")) for path in self._sizes() if _completes(path))

    def upload(self, folder: Path, keep_last: int, held: set[Path]) -> None:
        """What is new or changed; then checkpoints older than the newest `keep_last` go. `held` has the checkpoint that
        is being read, which must stay until it is whole there."""
        with self._naming("could not be written"):
            there = self._sizes()
            for path in self._loose_files(folder):
                self._upload_changed(folder, path, there)
            for checkpoint in CheckpointStore(folder / "checkpoints").complete():
                held.add(checkpoint.path)
                try:
                    self._upload_checkpoint(folder, checkpoint.path)
                finally:
                    held.discard(checkpoint.path)
            for step in self.steps()[:-keep_last]:
                place = f"{self._root}/checkpoints/step-{step:06d}"
                self._files.delete_file(f"{place}/{COMPLETE}")
                self._files.delete_dir(place)

    def download(self, folder: Path) -> int:
        """Bring the run back into `folder`, which must not be there or be empty: all files, and the newest checkpoint.
        Gives its step; 0 where no checkpoint was complete."""
        temporary = folder.absolute().with_name(f".tmp-{folder.name}")
        shutil.rmtree(temporary, ignore_errors=True)
        with self._naming("could not be read"):
            step = max(self.steps(), default=0)
            newest = f"checkpoints/step-{step:06d}/"
            for path in self._sizes():
                if not path.startswith("checkpoints/") or path.startswith(newest):
                    (temporary / path).parent.mkdir(parents=True, exist_ok=True)
                    fs.copy_files(f"{self._root}/{path}", str(temporary / path), self._files, fs.LocalFileSystem())
        temporary.rename(folder)
        return step

    def _loose_files(self, folder: Path) -> Iterator[str]:
        """All but checkpoints; the journal first: records that it tells of are then in what follows."""
        if (folder / JOURNAL).is_file():
            yield JOURNAL
        for root, folders, names in os.walk(folder):
            folders[:] = [name for name in folders if not (Path(root) == folder and name == "checkpoints")]
            for name in names:
                path = (Path(root) / name).relative_to(folder).as_posix()
                if not name.startswith(NOT_COPIED) and path != JOURNAL:
                    yield path

    def _upload_changed(self, folder: Path, path: str, there: dict[str, int]) -> None:
        try:
            status = (folder / path).stat()
        except FileNotFoundError:  # of a run that goes on meanwhile
            return
        state = (status.st_size, status.st_mtime_ns)
        # segments only grow, and every record has a checksum in the journal: of one size, they are the same
        is_there = path.endswith(".arrows") and there.get(path) == status.st_size
        if not is_there and self._uploaded.get(path) != state:
            self._put(folder / path, path)
        self._uploaded[path] = state

    def _upload_checkpoint(self, folder: Path, checkpoint: Path) -> None:
        inside = checkpoint.relative_to(folder).as_posix()
        marker = f"{self._root}/{inside}/{COMPLETE}"
        if self._files.get_file_info(marker).is_file:
            with self._files.open_input_stream(marker) as file:
                if file.read() == (checkpoint / COMPLETE).read_bytes():  # its `seconds` tell two saves of a step apart
                    return
            self._files.delete_file(marker)
        for file in sorted(checkpoint.rglob("*")):
            if file.is_file() and file.name != COMPLETE:
                self._put(file, f"{inside}/{file.relative_to(checkpoint).as_posix()}")
        self._put(checkpoint / COMPLETE, f"{inside}/{COMPLETE}")

    def _put(self, file: Path, path: str) -> None:
        """Whole or not there: an object is so by itself, a file by its name, which it gets last."""
        place = f"{self._root}/{path}"
        folder, name = place.rsplit("/", 1)
        if not isinstance(self._files, fs.LocalFileSystem):
            fs.copy_files(str(file), place, fs.LocalFileSystem(), self._files, chunk_size=_CHUNK_BYTES)
            return
        self._files.create_dir(folder, recursive=True)
        fs.copy_files(str(file), f"{folder}/.tmp-{name}", fs.LocalFileSystem(), self._files)
        self._files.move(f"{folder}/.tmp-{name}", place)

    def _sizes(self) -> dict[str, int]:
        """In bytes, of every file there, by its path in the folder."""
        selector = fs.FileSelector(self._root, recursive=True, allow_not_found=True)
        found = {
            info.path[len(self._root) + 1 :]: info.size for info in self._files.get_file_info(selector) if info.is_file
        }
        return {path: size for path, size in found.items() if not path.rsplit("/", 1)[-1].startswith(NOT_COPIED)}

    @contextmanager
    def _naming(self, what: str) -> Iterator[None]:
        """Errors of the storage, and of the disk, have the address."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise RunCopyError(f"{self.address} {what}: {without_secrets(str(error))}") from error


def _completes(path: str) -> bool:
    parts = path.split("/")
    return len(parts) == 3 and parts[0] == "checkpoints" and parts[1].startswith("step-") and parts[2] == COMPLETE
