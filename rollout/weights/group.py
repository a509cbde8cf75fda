"""A group of processes on several nodes, in which member 0 sends bytes to all others: torch's gloo, or NCCL.

Given where member 0 listens, gives `broadcast(memories)`, which returns or raises within the group's deadline on every
member, whoever of them dies or stops. One that failed is of no use any more: close it and form another.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Backend = Literal["gloo", "nccl"]
PIECE_BYTES = 64 << 20
"""Sent at once, so that a long transfer fails only where nothing moves."""
UNDER_WAY = 2
"""Pieces on their way at a time: while one moves, the members agree on the next, and map its memory."""
POLL_S = 0.001


class TransferGroupError(RuntimeError):
    """Some member is gone or silent; which one is for whoever formed the group to find out."""


class TransferGroup:
    """One member's end."""

    def __init__(
        self, backend: Backend, store: Any, member: int, num_members: int, host: str, deadline_s: float
    ) -> None:
        """All members must do so, each with a client of the same `store`. `host`: this member's address."""
        import torch
        import torch.distributed as dist

        self._deadline = timedelta(seconds=deadline_s)
        self._device = torch.device("cpu" if backend == "gloo" else "cuda")
        ends: Any = dist  # the CPU build of torch has no NCCL
        try:
            if backend == "gloo":
                options = ends.ProcessGroupGloo._Options()
                options._devices = [ends.ProcessGroupGloo.create_device(hostname=host)]
                options._timeout = self._deadline
                self._end = ends.ProcessGroupGloo(store, member, num_members, options)
            elif not hasattr(ends, "ProcessGroupNCCL"):
                raise TransferGroupError("this build of torch has no NCCL")
            else:
                self._end = ends.ProcessGroupNCCL(store, member, num_members, self._deadline)
        except TransferGroupError:
            raise
        except RuntimeError as error:
            raise TransferGroupError(f"no {backend} group of {num_members} nodes: {error}") from error

    def broadcast(self, memories: Iterable[torch.Tensor]) -> None:
        """The bytes of member 0's memories (uint8, on the host) to those of all others, which are as many and as large;
        each is asked for when those before are on their way."""
        under_way: deque[tuple[Any, torch.Tensor, torch.Tensor]] = deque()
        for memory in memories:
            for piece in pieces(memory):
                staged = piece.to(self._device)  # itself with gloo
                under_way.append((self._start(staged), piece, staged))
                if len(under_way) == UNDER_WAY:
                    self._arrived(*under_way.popleft())
        while under_way:
            self._arrived(*under_way.popleft())

    def _arrived(self, work: Any, piece: torch.Tensor, staged: torch.Tensor) -> None:
        self._finish(work)
        if staged is not piece:
            piece.copy_(staged)

    def _start(self, piece: torch.Tensor) -> Any:
        import torch.distributed as dist

        options = dist.BroadcastOptions()
        options.rootRank = options.rootTensor = 0
        options.timeout = self._deadline
        try:
            return self._end.broadcast([piece], options)
        except RuntimeError as error:
            raise TransferGroupError(str(error).splitlines()[0]) from error

    def _finish(self, work: Any) -> None:
        until = time.monotonic() + self._deadline.total_seconds()
        try:
            # with NCCL `wait` only orders streams: the host looks, so that a member that stands still is noticed
            while self._device.type == "cuda" and not work.is_completed():
                if time.monotonic() > until:
                    raise TransferGroupError(f"nothing moved for {self._deadline.total_seconds():g} s")
                time.sleep(POLL_S)
            work.wait()
        except TransferGroupError:
            raise
        except RuntimeError as error:
            raise TransferGroupError(str(error).splitlines()[0]) from error

    def close(self) -> None:
        """Give back its connections."""
        if self._device.type == "cuda":
            self._end.abort()
        del self._end


def pieces(memory: torch.Tensor) -> Iterator[torch.Tensor]:
    """Views of it, in order."""
    for start in range(0, memory.numel(), PIECE_BYTES):
        yield memory[start : start + PIECE_BYTES]
