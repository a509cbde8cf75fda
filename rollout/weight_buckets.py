"""Weights on their way through shared memory: written in buckets by the learner, read by the engines of the same node.

Given an iterable of (name, tensor), gives bucket descriptions (plain dicts, small enough for one call each); given a
description, gives the tensors back, after its checksum was verified. Imports no vllm: the learner uses this.

    sender = SharedMemorySender(bucket_bytes=256 << 20)
    buckets = sender.export(7, learner.weights())      # one dict a bucket
    for name, tensor in read_bucket(BucketInfo(**buckets[0])): ...
    sender.release()
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PREFIX = "raylign-weights-"
ALIGNMENT = 64


class BucketError(RuntimeError):
    """A bucket that must not be loaded: damaged, missing or out of place."""


@dataclass
class BucketInfo:
    """Where one bucket lies and what is in it."""

    path: str
    version: int
    index: int
    num_buckets: int
    num_bytes: int
    checksum: str
    """xxh3_128 of all bytes."""
    names: list[str] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=list)
    shapes: list[list[int]] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)


class SharedMemorySender:
    """Writes weights to shared memory and keeps them there until `release`, or until it is collected itself.

    The files are locked while this process lives, and unlinked by the next sender if it was killed before `release`.
    """

    def __init__(self, bucket_bytes: int, folder: Path | None = None) -> None:
        self._bucket_bytes = bucket_bytes
        self._folder = folder or shared_memory_folder()
        self._open: list[_OpenBucket] = []
        weakref.finalize(self, _close_all, self._open, os.getpid())
        remove_orphans(self._folder)

    def export(self, version: int, weights: Iterable[tuple[str, torch.Tensor]]) -> list[dict[str, Any]]:
        """Write all weights; what an earlier call wrote is released first."""
        self.release()
        try:
            for name, tensor in weights:
                if not self._open or not self._open[-1].has_room(tensor):
                    self._seal_last()
                    self._open.append(_OpenBucket(self._folder, version, len(self._open), self._bucket_bytes, tensor))
                self._open[-1].append(name, tensor)
            self._seal_last()
        except BaseException:
            self.release()
            raise
        for bucket in self._open:
            bucket.info.num_buckets = len(self._open)
        return [asdict(bucket.info) for bucket in self._open]

    def _seal_last(self) -> None:
        if self._open:
            self._open[-1].seal()

    def release(self) -> None:
        """Unlink what was written. An engine that still reads keeps its mapping."""
        _close_all(self._open, os.getpid())


def _close_all(buckets: list[_OpenBucket], owner_pid: int) -> None:
    while buckets and os.getpid() == owner_pid:  # a forked child leaves its parent's buckets alone
        buckets.pop().close()


class _OpenBucket:
    """One file being filled."""

    def __init__(self, folder: Path, version: int, index: int, bucket_bytes: int, first: torch.Tensor) -> None:
        path = folder / f"{PREFIX}{os.getpid()}-{secrets.token_hex(6)}-v{version}-{index}"
        self._capacity = max(bucket_bytes, _num_bytes(first))
        self._file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        os.ftruncate(self._file, self._capacity)  # sparse: pages come as they are written
        self._memory: mmap.mmap | None = mmap.mmap(self._file, self._capacity)
        self.info = BucketInfo(str(path), version, index, 0, 0, "")

    def has_room(self, tensor: torch.Tensor) -> bool:
        return self.info.num_bytes + _num_bytes(tensor) <= self._capacity

    def append(self, name: str, tensor: torch.Tensor) -> None:
        import torch

        assert self._memory is not None
        info, size = self.info, _num_bytes(tensor)
        if size:
            self._reserve(size)
            target = torch.frombuffer(self._memory, dtype=tensor.dtype, count=tensor.numel(), offset=info.num_bytes)
            target.view(tensor.shape).copy_(tensor.detach())
        info.names.append(name)
        info.dtypes.append(str(tensor.dtype).removeprefix("torch."))
        info.shapes.append(list(tensor.shape))
        info.offsets.append(info.num_bytes)
        info.num_bytes = -(-(info.num_bytes + size) // ALIGNMENT) * ALIGNMENT

    def _reserve(self, size: int) -> None:
        """Take the memory now: writing to pages that are not there would kill this process without a word."""
        try:
            os.posix_fallocate(self._file, self.info.num_bytes, size)
        except OSError as error:
            raise BucketError(
                f"no room for {size} more bytes of weights in {Path(self.info.path).parent} ({error.strerror}); "
                "make it larger (docker run --shm-size) or lower weights.bucket_mib"
            ) from error

    def seal(self) -> None:
        """Fix size and checksum; nothing is added after this."""
        import xxhash

        assert self._memory is not None
        self.info.num_bytes = min(self.info.num_bytes, self._capacity)
        with memoryview(self._memory) as view:
            self.info.checksum = xxhash.xxh3_128_hexdigest(view[: self.info.num_bytes])
        self._memory = None  # unmapped once no tensor refers to it
        os.ftruncate(self._file, self.info.num_bytes)
        self._capacity = 0

    def close(self) -> None:
        self._memory = None
        Path(self.info.path).unlink(missing_ok=True)
        os.close(self._file)


def read_bucket(info: BucketInfo) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a bucket, as views of a private mapping, once its checksum is verified."""
    import torch
    import xxhash

    where = f"bucket {info.index + 1} of {info.num_buckets} of version {info.version} ({info.path})"
    try:
        with open(info.path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != info.num_bytes:
                raise BucketError(f"{where} holds {size} bytes instead of {info.num_bytes}")
            memory = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) if size else bytearray()
    except FileNotFoundError as error:
        raise BucketError(f"{where} is not there: learner and engine must share a node's memory") from error
    found = xxhash.xxh3_128_hexdigest(memory)
    if found != info.checksum:
        raise BucketError(f"{where} is damaged: checksum {found} instead of {info.checksum}")
    for name, dtype_name, shape, offset in zip(info.names, info.dtypes, info.shapes, info.offsets, strict=True):
        dtype = getattr(torch, dtype_name)
        count = 1
        for length in shape:
            count *= length
        if count == 0:
            yield name, torch.empty(shape, dtype=dtype)
        else:
            yield name, torch.frombuffer(memory, dtype=dtype, count=count, offset=offset).view(shape)


def _num_bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def shared_memory_folder() -> Path:
    """Where files live in memory; the temporary folder where there is no such place."""
    folder = Path("/dev/shm")
    return folder if folder.is_dir() and os.access(folder, os.W_OK) else Path(tempfile.gettempdir())


def remove_orphans(folder: Path) -> None:
    """Unlink buckets whose writer is gone: nobody holds their lock."""
    for path in folder.glob(f"{PREFIX}*"):
        try:
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # somebody else's, or just gone
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except BlockingIOError:
            pass  # its writer lives
        finally:
            os.close(file)
