"""Weights to another node: bytes a second of the whole way (group, buckets, files) against one bare gloo broadcast of
as many bytes between the same two processes.

Given nothing; both nodes are this machine, so the link is its loopback.

    .venv/bin/python -m benchmarks.weight_travel
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.measurement import Measurement, show
from raylign.actors.fleet import Engine
from raylign.actors.handles import LocalHandle
from raylign.actors.weights.node_copies import NodeCopies
from raylign.actors.weights.update import ExportedWeights
from raylign.rollout.weights.buckets import SharedMemorySender
from raylign.rollout.weights.courier import Courier

NUM_BYTES, BUCKET_BYTES = 512 << 20, 128 << 20
HOME, AWAY = "learner's node", "another node"


class MeasuredCourier(Courier):
    """Also sends plain memory, in one piece."""

    async def bare(self, num_bytes: int) -> None:
        """Between all members of the group that stands."""
        await asyncio.to_thread(self._bare, num_bytes)

    def _bare(self, num_bytes: int) -> None:
        import torch

        assert self._group is not None
        if not hasattr(self, "_plain"):
            self._plain = torch.ones(num_bytes, dtype=torch.uint8)
        self._group._finish(self._group._start(self._plain))


def serve(pipe: Any) -> None:
    """A process with a courier: verbs come through the pipe, one at a time."""
    courier = MeasuredCourier("127.0.0.1")
    while (command := pipe.recv()) is not None:
        verb, arguments = command
        pipe.send(asyncio.run(getattr(courier, verb)(*arguments)))


class CourierProcess:
    """Its handle."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs,), daemon=True)
        self._process.start()

    def _ask(self, verb: str, *arguments: Any) -> Any:
        self._pipe.send((verb, arguments))
        return self._pipe.recv()

    def __getattr__(self, verb: str) -> SimpleNamespace:
        async def asked(*arguments: Any) -> Any:
            return await asyncio.to_thread(self._ask, verb, *arguments)

        return SimpleNamespace(remote=asked)

    def end(self) -> None:
        """The process too."""
        self._pipe.send(None)
        self._process.join()


def measure(num_rounds: int = 7) -> list[dict[str, Any]]:
    """One row."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        bare, ours = asyncio.run(_seconds(Path(folder), num_rounds))
    ratios = [b / o for b, o in zip(bare, ours, strict=True)]
    return [
        Measurement(
            "weights to another node by gloo",
            "GB/s",
            NUM_BYTES / statistics.median(ours) / 1e9,
            other=NUM_BYTES / statistics.median(bare) / 1e9,
            other_name="bare broadcast",
            ratio=statistics.median(ratios),
            spread=(min(ratios), max(ratios)),
            goal=">= 0.7",
            notes=[f"{NUM_BYTES >> 20} MiB in buckets of {BUCKET_BYTES >> 20} MiB, over loopback"],
        ).row()
    ]


async def _seconds(folder: Path, num_rounds: int) -> tuple[list[float], list[float]]:
    import torch

    couriers = {node: CourierProcess() for node in (HOME, AWAY)}
    copies = NodeCopies("gloo", HOME, couriers.__getitem__, deadline_s=120)
    engine = Engine(0, LocalHandle(Away()))
    sender = SharedMemorySender(BUCKET_BYTES, folder)
    parts = {f"part {index}": torch.randn(4 << 20) for index in range(NUM_BYTES // (16 << 20))}
    bare_s, ours_s = [], []
    for version in range(num_rounds + 1):
        exported = ExportedWeights(version, tuple(sender.export(version, parts.items())), 0.0)
        began_s = time.perf_counter()
        _, errors = await copies.bring(exported, [engine])
        assert not errors, errors
        brought_s = time.perf_counter()
        await asyncio.gather(*(courier.bare.remote(NUM_BYTES) for courier in couriers.values()))
        ended_s = time.perf_counter()
        if version:  # the first makes the group and the files
            ours_s.append(brought_s - began_s)
            bare_s.append(ended_s - brought_s)
    for courier in couriers.values():
        await courier.stop.remote()
        courier.end()
    sender.release()
    return bare_s, ours_s


class Away:
    """An engine on another node."""

    async def node(self) -> str:
        """Which one."""
        return AWAY


if __name__ == "__main__":
    show(measure())
