"""Weights on their way through shared memory: written in buckets by the learner, read by the engines of the same node.

Given an iterable of (name, tensor), gives bucket descriptions (small values that travel to engines); given a
description, checks its bytes and gives the tensors back. Imports no vllm: the learner uses this.

    sender = SharedMemorySender(bucket_bytes=256 << 20)
    buckets = sender.export(7, learner.weights())
    check_buckets(buckets)
    for name, tensor in read_bucket(buckets[0]): ...
    sender.release()
"""

from __future__ import annotations

import fcntl
import json
import math
import mmap
import os
import secrets
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylign.rollout.owned_folders import OwnedFolder

if TYPE_CHECKING:
    import torch

PREFIX = "raylign-weights-"
ALIGNMENT = 64


class BucketError(RuntimeError):
    """A bucket that must not be loaded: damaged, missing or out of place. `bucket` counts from 0."""

    def __init__(self, message: str, bucket: int | None = None) -> None:
        super().__init__(message)
        self.bucket = bucket

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.bucket)


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
    adapter: dict[str, Any] | None = None
    """The peft configuration, where these are the weights of an adapter; None: of the whole model."""

    @property
    def where(self) -> str:
        return f"bucket {self.index + 1} of {self.num_buckets} of version {self.version} ({self.path})"


class SharedMemorySender:
    """Writes weights to shared memory and keeps them there until the next `export`, which writes to the same memory
    again (new memory costs ten times the copy), until `release`, or until it is collected itself.

    The files are locked while this process lives, and unlinked by the next sender if it was killed before `release`.
    """

    def __init__(self, bucket_bytes: int, folder: Path | None = None) -> None:
        self._bucket_bytes = bucket_bytes
        self._folder = folder or shared_memory_folder()
        self._files: list[BucketFile] = []
        weakref.finalize(self, _close_all, self._files, os.getpid())
        remove_orphans(self._folder)

    def export(
        self, version: int, weights: Iterable[tuple[str, torch.Tensor]], adapter: dict[str, Any] | None = None
    ) -> list[BucketInfo]:
        """Write all weights over those of the last export. `adapter`: they are an adapter's, and this its config."""
        written = 0
        try:
            for name, tensor in weights:
                if not written or not self._files[written - 1].has_room(tensor):
                    if written:
                        self._files[written - 1].seal()
                    if written == len(self._files):
                        self._files.append(BucketFile(self._folder, self._bucket_bytes))
                    self._files[written].begin(version, written, tensor)
                    written += 1
                self._files[written - 1].append(name, tensor)
            if written:
                self._files[written - 1].seal()
        except BaseException:
            self.release()
            raise
        while len(self._files) > written:
            self._files.pop().close()
        for file in self._files:
            file.info.num_buckets, file.info.adapter = written, adapter
        return [file.info for file in self._files]

    def release(self) -> None:
        """Unlink what was written. An engine that still reads keeps its mapping."""
        _close_all(self._files, os.getpid())


def _close_all(files: list[BucketFile], owner_pid: int) -> None:
    while files and os.getpid() == owner_pid:  # a forked child leaves its parent's files alone
        files.pop().close()


class BucketFile:
    """One file, filled by version after version: tensor by tensor (`append`), or as bytes that come (`room_for`)."""

    def __init__(self, folder: Path, bucket_bytes: int) -> None:
        self._bucket_bytes = bucket_bytes
        self.path = folder / f"{PREFIX}{os.getpid()}-{secrets.token_hex(6)}"
        self._file = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._memory: mmap.mmap | None = None
        self._capacity = 0
        self._reserved_bytes = 0

    def begin(self, version: int, index: int, first: torch.Tensor) -> None:
        """Forget what is in it."""
        self._grow_to(max(self._bucket_bytes, _num_bytes(first)))
        self.info = BucketInfo(str(self.path), version, index, 0, 0, "")

    def room_for(self, num_bytes: int) -> torch.Tensor:
        """Its first bytes, to be written over."""
        import torch

        if not num_bytes:
            return torch.empty(0, dtype=torch.uint8)
        self._grow_to(num_bytes)
        self._reserve(num_bytes)
        assert self._memory is not None
        return torch.frombuffer(self._memory, dtype=torch.uint8, count=num_bytes)

    def _grow_to(self, capacity: int) -> None:
        if capacity > self._capacity:
            self._memory = None  # unmapped once no tensor refers to it
            os.ftruncate(self._file, capacity)  # sparse: pages come as they are reserved
            self._memory, self._capacity = mmap.mmap(self._file, capacity), capacity

    def has_room(self, tensor: torch.Tensor) -> bool:
        return self.info.num_bytes + _num_bytes(tensor) <= max(self._bucket_bytes, self._capacity)

    def append(self, name: str, tensor: torch.Tensor) -> None:
        import torch

        assert self._memory is not None
        info, size = self.info, _num_bytes(tensor)
        if size:
            self._reserve(info.num_bytes + size)
            _copy(tensor.detach(), torch.frombuffer(self._memory, dtype=torch.uint8, count=size, offset=info.num_bytes))
        info.names.append(name)
        info.dtypes.append(str(tensor.dtype).removeprefix("torch."))
        info.shapes.append(list(tensor.shape))
        info.offsets.append(info.num_bytes)
        info.num_bytes = -(-(info.num_bytes + size) // ALIGNMENT) * ALIGNMENT

    def _reserve(self, end: int) -> None:
        """Take the memory now: writing to pages that are not there would kill this process without a word."""
        size = end - self._reserved_bytes
        if size <= 0:
            return
        try:
            os.posix_fallocate(self._file, self._reserved_bytes, size)
        except OSError as error:
            raise BucketError(
                f"no room for {size} more bytes of weights in {self.path.parent} ({error.strerror}); "
                "make it larger (docker run --shm-size) or lower weights.bucket_mib"
            ) from error
        self._reserved_bytes = end

    def seal(self) -> None:
        """Fix size and checksum; nothing is added to this version after it."""
        import xxhash

        assert self._memory is not None
        self.info.num_bytes = min(self.info.num_bytes, self._capacity)
        with memoryview(self._memory) as view:
            self.info.checksum = xxhash.xxh3_128_hexdigest(view[: self.info.num_bytes])

    def close(self) -> None:
        self._memory = None
        self.path.unlink(missing_ok=True)
        os.close(self._file)


def check_buckets(buckets: Iterable[BucketInfo]) -> None:
    """Refuse a bucket whose bytes are not those that were written."""
    import xxhash

    for info in buckets:
        with memoryview(map_bucket(info)) as memory:
            found = xxhash.xxh3_128_hexdigest(memory[: info.num_bytes])
        if found != info.checksum:
            raise BucketError(f"{info.where} is damaged: checksum {found} instead of {info.checksum}", info.index)


def read_bucket(info: BucketInfo, memory: mmap.mmap | bytearray | None = None) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a bucket, as views of its memory. Its bytes are not checked here (`check_buckets`)."""
    import torch

    memory = map_bucket(info) if memory is None else memory
    for name, dtype_name, shape, offset in zip(info.names, info.dtypes, info.shapes, info.offsets, strict=True):
        dtype = getattr(torch, dtype_name)
        count = math.prod(shape)
        if count == 0:
            yield name, torch.empty(shape, dtype=dtype)
        else:
            yield name, torch.frombuffer(memory, dtype=dtype, count=count, offset=offset).view(shape)


class BucketMaps:
    """Mappings that last from version to version: to map a bucket anew costs an engine a fifth of its pause."""

    def __init__(self) -> None:
        self._maps: dict[str, mmap.mmap | bytearray] = {}

    def of(self, info: BucketInfo) -> mmap.mmap | bytearray:
        """The bucket's memory."""
        memory = self._maps.get(info.path)
        if memory is None or len(memory) < info.num_bytes:
            memory = self._maps[info.path] = map_bucket(info)
        return memory

    def keep_only(self, paths: set[str]) -> None:
        """Let go of buckets that are not among these."""
        for path in set(self._maps) - paths:
            del self._maps[path]


class AdapterFolder:
    """A peft folder in shared memory, rewritten by version after version."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = OwnedFolder("raylign-adapter-", folder or shared_memory_folder())
        self.path = self._folder.path

    def write(self, buckets: Iterable[BucketInfo]) -> None:
        """What those buckets, all of one version, hold."""
        from safetensors.torch import save_file

        tensors: dict[str, torch.Tensor] = {}
        for info in buckets:
            tensors |= read_bucket(info)
        draft = self.path / "draft"
        save_file(tensors, str(draft))
        draft.rename(self.path / "adapter_model.safetensors")
        (self.path / "adapter_config.json").write_text(json.dumps(info.adapter))


def map_bucket(info: BucketInfo) -> mmap.mmap | bytearray:
    """The memory that the learner wrote, itself and not a private view of it: a private view would keep a page that a
    loader writes to for all versions to come, unseen; here, whoever reads that page next finds its checksum broken."""
    try:
        with open(info.path, "r+b") as file:
            size = os.fstat(file.fileno()).st_size
            if size < info.num_bytes:
                raise BucketError(f"{info.where} holds {size} bytes instead of {info.num_bytes}", info.index)
            return mmap.mmap(file.fileno(), size) if size else bytearray()
    except FileNotFoundError as error:
        raise BucketError(
            f"{info.where} is not there: learner and engine must share a node's memory", info.index
        ) from error


def _copy(tensor: torch.Tensor, target: torch.Tensor) -> None:
    """All bytes of a tensor. By numpy where it can: torch copies with all its threads, which wait for each other, and
    on cores that engines are busy on that took seven times as long as one thread alone."""
    import torch

    if tensor.device.type == "cpu":
        target.numpy()[:] = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    else:
        target.copy_(tensor.contiguous().reshape(-1).view(torch.uint8))


def _num_bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def shared_memory_folder() -> Path:
    """Where files live in memory; the temporary folder where there is no such place."""
    folder = Path("/dev/shm")
    return folder if folder.is_dir() and os.access(folder, os.W_OK) else Path(tempfile.gettempdir())


def remove_orphans(folder: Path) -> None:
    """Unlink buckets whose writer is gone."""
    for path in folder.glob(f"{PREFIX}*"):
        if is_orphan(path):
            path.unlink(missing_ok=True)


def is_orphan(path: Path) -> bool:
    """Whether the writer of a bucket is gone: nobody holds its lock."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:  # somebody else's, or just gone
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:  # its writer lives
        return False
    finally:
        os.close(file)
