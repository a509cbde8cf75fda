"""Sharded learner ranks feed several engines. Real DeepSpeed processes, real vLLM engines."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raylign.actors.fleet import Fleet
from raylign.actors.handles import LocalHandle
from raylign.actors.weights.config import WeightsConfig
from raylign.actors.weights.node_copies import NodeCopies
from raylign.actors.weights.publisher import WeightPublisher
from raylign.rollout.engine.config import EngineConfig
from raylign.rollout.engine.vllm_engine import VllmEngine
from raylign.rollout.weights.buckets import BucketInfo
from raylign.rollout.weights.courier import Courier
from tests.patience import HANGS_S, wait_for_end, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("warm_engines")]


@contextmanager
def exported_by_ranks(model: Path, out: Path, world_size: int, zero_stage: int, how: str) -> Iterator[list[BucketInfo]]:
    """Bucket descriptions, for as long as the ranks hold them."""
    out.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [
        sys.executable,
        str(Path(__file__).parent / "weight_ranks.py"),
        str(model),
        str(out),
        str(zero_stage),
        how,
    ]
    processes = []
    try:
        for rank in range(world_size):
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
            with (out / f"rank{rank}.log").open("w") as log:
                processes.append(subprocess.Popen(command, env={**common, **ranks}, stdout=log, stderr=log))
        wait_until((out / "buckets.json").exists, "weights", processes, told=lambda: last_words(out))
        yield [BucketInfo(**bucket) for bucket in json.loads((out / "buckets.json").read_text())]
        (out / "done").touch()
        for process in processes:
            assert wait_for_end(process) == 0, last_words(out)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()


def last_words(out: Path) -> str:
    """Of each rank."""
    return "\n".join(f"{log.name}:\n{log.read_text()[-3000:]}" for log in sorted(out.glob("rank*.log")))


class OnNode:
    """An engine that says where it runs."""

    def __init__(self, engine: VllmEngine, name: str) -> None:
        self._engine, self._name = engine, name

    def __getattr__(self, verb: str) -> Any:
        return getattr(self._engine, verb)

    async def node(self) -> str:
        return self._name


async def digest_over_nodes(engines: list[VllmEngine], learner: Described) -> str | None:
    """What engines report that got the same weights on another node, by gloo; the buckets lie in memory of its own."""
    copies = NodeCopies("gloo", "learner's node", lambda node: LocalHandle(Courier("127.0.0.1")), 60.0)
    fleet = Fleet([LocalHandle(OnNode(engine, "another node")) for engine in engines])
    publisher = WeightPublisher(fleet, learner, WeightsConfig(), copies=copies)
    await publisher.publish(1)
    await publisher.close()
    return publisher.digest


class Described:
    """A learner that has exported already."""

    buckets: list[BucketInfo]

    async def export_weights(self, version: int) -> list[BucketInfo]:
        return [replace(bucket, version=version) for bucket in self.buckets]

    async def release_weights(self) -> None:
        pass


def test_two_sharded_ranks_feed_two_engines_what_one_rank_would(make_tiny_model, runner, tmp_path: Path) -> None:
    model = make_tiny_model("qwen3", tied=False)
    engines = [
        VllmEngine(
            str(model),
            EngineConfig(max_model_len=128, kv_cache_gib=0.1, cpu_cores=str(core)),
            weight_backend="shared_memory",
        )
        for core in sorted(os.sched_getaffinity(0))[:2]
    ]
    learner = Described()
    publisher = WeightPublisher(Fleet([LocalHandle(engine) for engine in engines]), learner, WeightsConfig())

    async def test() -> None:
        await asyncio.gather(*(engine.start() for engine in engines))
        try:
            from_disk = await engines[0].weight_checksum()
            with exported_by_ranks(model, tmp_path / "two", world_size=2, zero_stage=3, how="train") as learner.buckets:
                assert len(learner.buckets) > 3
                by_gloo = await digest_over_nodes(engines, learner)
                await publisher.publish(1)
            of_two_ranks = publisher.digest
            trained = tmp_path / "two" / "model"
            with exported_by_ranks(trained, tmp_path / "one", world_size=1, zero_stage=0, how="") as learner.buckets:
                await publisher.publish(2)
            assert publisher.digest == of_two_ranks != from_disk
            assert by_gloo == of_two_ranks  # which came through the memory of one node
            assert [await engine.weight_checksum() for engine in engines] == [of_two_ranks] * 2
        finally:
            await asyncio.gather(*(engine.stop() for engine in engines))

    runner.run(asyncio.wait_for(test(), HANGS_S))
