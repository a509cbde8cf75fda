"""Couriers that are killed or stopped at a random moment of a transfer: real processes in a real Ray, over gloo.

Given a cluster of one node, whose couriers stand for those of three; engines are plain objects.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from raylign.actors.cluster import ClusterConfig, ray_cluster
from raylign.actors.fleet import Fleet
from raylign.actors.handles import LocalHandle
from raylign.actors.weights.config import WeightsConfig
from raylign.actors.weights.node_copies import NodeCopies, start_courier
from raylign.actors.weights.publisher import WeightPublisher
from tests.actors.weights.fake_sides import ALearner
from tests.actors.weights.test_node_copies import HOME, OnNode
from tests.patience import HANGS_S

pytestmark = pytest.mark.ray
DEADLINE_S = 30.0
MIB = 1 << 20


@pytest.fixture(scope="module")
def ray_node() -> Iterator[str]:
    """A private Ray; gives the id of its node."""
    import ray

    with ray_cluster(ClusterConfig(address="local", num_cpus=2, object_store_mib=80)):
        yield ray.get_runtime_context().get_node_id()


class Run:
    """A learner, engines on two other nodes, and weights that travel to them."""

    def __init__(self, ray_node: str, folder: Path, num_mib: int) -> None:
        self.weights = {f"part {index}": torch.zeros(MIB // 4) for index in range(num_mib)}
        self.learner = ALearner(self.weights, folder, bucket_bytes=8 * MIB)
        self.engines = [OnNode("b"), OnNode("c")]
        self.copies = NodeCopies("gloo", HOME, lambda node: start_courier(ray_node), DEADLINE_S)
        self.publisher: Any = None
        self.version = 0

    async def begin(self) -> None:
        for engine in self.engines:
            await engine.start()
        handles = [LocalHandle(engine) for engine in self.engines]
        config = WeightsConfig(deadline_s=DEADLINE_S)
        self.publisher = WeightPublisher(Fleet(handles), self.learner, config, copies=self.copies)
        await self.publish()

    async def publish(self, disturb: Awaitable[None] | None = None) -> float:
        """The next version; gives the seconds that it took."""
        self.version += 1
        for tensor in self.weights.values():
            tensor.fill_(self.version)
        started_at = time.perf_counter()
        await asyncio.gather(self.publisher.publish(self.version), *([disturb] if disturb else []))
        for engine in self.engines:
            assert engine.version == self.version
            assert all(tensor.eq(self.version).all() for tensor in engine.weights.values())
        return time.perf_counter() - started_at

    async def pid(self, node: str) -> int:
        """Of the courier of a node. One that was killed or stopped when its transfer was over is missed, and replaced,
        only by the next version."""
        from ray.exceptions import RayActorError

        try:
            return int(await asyncio.wait_for(self.copies._couriers[node].process_id.remote(), DEADLINE_S))
        except (RayActorError, TimeoutError):
            await self.publish()
            return int(await self.copies._couriers[node].process_id.remote())

    async def disturbed(self, node: str, sign: signal.Signals, after_s: float) -> float:
        """The next version, while the courier of a node is sent a signal."""
        pid = await self.pid(node)

        async def disturb() -> None:
            await asyncio.sleep(after_s)
            os.kill(pid, sign)

        took_s = await self.publish(disturb())
        assert await ended(pid) or sign is signal.SIGSTOP, f"{pid} is left behind"
        return took_s


async def ended(pid: int) -> bool:
    """Whether a process is gone, at the latest after the deadline."""
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        await asyncio.sleep(0.1)
    return False


def test_a_killed_and_a_stopped_courier_cost_no_version(ray_node: str, tmp_path: Path) -> None:
    async def test() -> None:
        run = Run(ray_node, tmp_path, num_mib=32)
        await run.begin()
        try:
            await run.disturbed("b", signal.SIGKILL, after_s=0.0)
            await run.disturbed(HOME, signal.SIGSTOP, after_s=0.0)
            await run.publish()
        finally:
            await run.publisher.close()

    asyncio.run(asyncio.wait_for(test(), HANGS_S))


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("node", ["b", HOME])
def test_twenty_random_moments(ray_node: str, tmp_path: Path, node: str, sign: signal.Signals) -> None:
    """Prints seconds of a version with a disturbance, and the memory of the courier that is never disturbed."""

    async def test() -> None:
        run = Run(ray_node, tmp_path, num_mib=256)
        await run.begin()
        try:
            usual_s = min([await run.publish() for _ in range(3)])
            survivor = psutil.Process(await run.pid("c"))
            times, memory = [], []
            draw = random.Random(f"{node} {sign}")
            for _ in range(20):
                times.append(await run.disturbed(node, sign, draw.uniform(0, usual_s)))
                memory.append(survivor.memory_full_info().uss)
            await run.publish()
            growth = memory[-1] / memory[2]
            print(f"\n{sign.name}, {node}: 20 of 20 versions arrived; undisturbed {usual_s:.2f} s, median", end=" ")
            print(f"{sorted(times)[10]:.1f} s, at most {max(times):.1f} s; memory of another courier x {growth:.3f}")
            assert survivor.pid == await run.pid("c")
            assert max(times) < 3 * DEADLINE_S
            assert growth < 1.05
        finally:
            await run.publisher.close()

    asyncio.run(asyncio.wait_for(test(), 4 * HANGS_S))
