"""A courier: brings exported weights from the learner's node to the memory of another node.

One runs on each node concerned. Given bucket descriptions, the first sends the bytes that they describe, the others
write them to buckets of their own and give the descriptions of those, with version and checksum as they came: engines
of their node then load them as they would the learner's. No engine takes part, so none can be kept from generating.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylign.rollout.weights.buckets import BucketFile, BucketInfo, BucketMaps, remove_orphans, shared_memory_folder
from raylign.rollout.weights.group import Backend, TransferGroup

if TYPE_CHECKING:
    import torch

PROBE_BYTES = 1 << 20
"""Moved once, when a group is formed."""


class Courier:
    """One node's end. Its verbs run in threads of their own, so that it answers whatever its group does."""

    def __init__(self, host: str, folder: Path | None = None) -> None:
        """`host`: the address by which other nodes reach this one."""
        self._host = host
        self._folder = folder or shared_memory_folder()
        self._files: list[BucketFile] = []
        self._maps = BucketMaps()
        self._of_this_version: set[str] = set()
        self._group: TransferGroup | None = None
        self._store: Any = None
        remove_orphans(self._folder)

    async def process_id(self) -> int:
        """Of this process; the answer says that it runs."""
        return os.getpid()

    async def open(self, deadline_s: float) -> tuple[str, int]:
        """Member 0: the address at which the others join."""
        return await asyncio.to_thread(self._open, deadline_s)

    def _open(self, deadline_s: float) -> tuple[str, int]:
        from torch.distributed import TCPStore

        deadline = timedelta(seconds=deadline_s)
        self._store = TCPStore(self._host, 0, is_master=True, wait_for_workers=False, timeout=deadline)
        return self._host, self._store.port

    async def join(
        self, backend: Backend, address: tuple[str, int], member: int, num_members: int, deadline_s: float
    ) -> None:
        """Form the group with the others, and move a first MiB through it."""
        await asyncio.to_thread(self._join, backend, address, member, num_members, deadline_s)

    def _join(
        self, backend: Backend, address: tuple[str, int], member: int, num_members: int, deadline_s: float
    ) -> None:
        import torch
        from torch.distributed import TCPStore

        if member:
            deadline = timedelta(seconds=deadline_s)
            self._store = TCPStore(*address, is_master=False, wait_for_workers=False, timeout=deadline)
        self._group = TransferGroup(backend, self._store, member, num_members, self._host, deadline_s)
        expected = (torch.arange(PROBE_BYTES) % 251).to(torch.uint8)
        found = expected if member == 0 else torch.zeros_like(expected)
        self._group.broadcast([found])
        if not torch.equal(found, expected):
            raise ValueError(f"the group of {num_members} nodes does not deliver what was sent ({backend})")

    async def send(self, buckets: Sequence[BucketInfo]) -> None:
        """Member 0: what these hold, to all others."""
        await asyncio.to_thread(self._send, buckets)

    def _send(self, buckets: Sequence[BucketInfo]) -> None:
        import torch

        assert self._group is not None, "join comes first"
        self._group.broadcast(
            torch.frombuffer(self._maps.of(info), dtype=torch.uint8, count=info.num_bytes)
            for info in buckets
            if info.num_bytes
        )
        if buckets[0].index == 0:
            self._of_this_version = set()
        self._of_this_version |= {info.path for info in buckets}
        if buckets[-1].index == buckets[-1].num_buckets - 1:
            self._maps.keep_only(self._of_this_version)

    async def receive(self, buckets: Sequence[BucketInfo]) -> list[BucketInfo]:
        """The others: the same buckets in this node's memory, written over those of the version before."""
        return await asyncio.to_thread(self._receive, buckets)

    def _receive(self, buckets: Sequence[BucketInfo]) -> list[BucketInfo]:
        assert self._group is not None, "join comes first"
        self._group.broadcast(self._room_for(info) for info in buckets if info.num_bytes)
        copies = [replace(info, path=str(self._file(info.index).path)) for info in buckets]
        while self._files and len(self._files) > buckets[-1].num_buckets:
            self._files.pop().close()
        return copies

    def _room_for(self, info: BucketInfo) -> torch.Tensor:
        return self._file(info.index).room_for(info.num_bytes)

    def _file(self, index: int) -> BucketFile:
        while len(self._files) <= index:
            self._files.append(BucketFile(self._folder, 0))
        return self._files[index]

    async def leave(self) -> None:
        """Give up the group; what was received stays."""
        group, self._group, self._store = self._group, None, None
        if group is not None:
            await asyncio.to_thread(group.close)

    async def stop(self) -> None:
        """Give back group and memory."""
        await self.leave()
        self._maps.keep_only(set())
        while self._files:
            self._files.pop().close()
