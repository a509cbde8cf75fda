"""Both sides of a weight update in one process: a learner with any weights, engines that note what is asked of them.

Given how they are to fail; gives a learner, engines, and a way to start others in their place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raylign.actors.fleet import Fleet
from raylign.actors.handles import LocalHandle
from raylign.actors.weights.config import WeightsConfig
from raylign.actors.weights.publisher import WeightPublisher
from raylign.rollout.engine.fake_engine import FakeEngine
from raylign.rollout.sample import Prompt
from raylign.rollout.weights.buckets import BucketInfo, SharedMemorySender
from tests.patience import HANGS_S

PROMPT = Prompt("row-0", 0, "2 + 3 =", np.array([21, 22, 23], dtype=np.int32))


class ALearner:
    """The learner's end: any weights, in shared memory."""

    def __init__(self, weights: dict[str, torch.Tensor], folder: Path | None = None, bucket_bytes: int = 1000) -> None:
        self.weights = weights
        self.sender = SharedMemorySender(bucket_bytes, folder)
        self.spoil: Callable[[list[BucketInfo]], None] = lambda buckets: None

    async def export_weights(self, version: int) -> list[BucketInfo]:
        buckets = self.sender.export(version, self.weights.items())
        self.spoil(buckets)
        return buckets

    async def release_weights(self) -> None:
        self.sender.release()


def a_model(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"layer.{index}": torch.randn(10, 10, generator=generator) for index in range(5)}


def flip_a_bit(bucket: BucketInfo) -> None:
    content = bytearray(Path(bucket.path).read_bytes())
    content[100] ^= 1
    Path(bucket.path).write_bytes(content)


class Recorded(FakeEngine):
    """Notes the verbs that are called, and fails where told."""

    def __init__(self) -> None:
        super().__init__(lambda prompt, seed: "answer")
        self.verbs: list[str] = []
        self.reasons: list[str] = []
        self.before: Callable[[str], None] = lambda verb: None
        self.fail: dict[str, int] = {}
        self.error: Exception = RuntimeError("the dog ate it")
        self.hang = ""
        self._inside = False

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name.startswith("_") or not asyncio.iscoroutinefunction(value):
            return value

        async def recorded(*arguments: Any) -> Any:
            if self._inside:  # a verb that calls another
                return await value(*arguments)
            self.verbs.append(name)
            if name == "abort_weight_update":
                self.reasons.append(arguments[0])
            self.before(name)
            if self.hang == name:
                await asyncio.sleep(6000)
            if self.fail.get(name, 0) > 0:
                self.fail[name] -= 1
                raise self.error
            self._inside = True
            try:
                return await value(*arguments)
            finally:
                self._inside = False

        return recorded


class Replacing:
    """The pool's part: ends an engine, starts another."""

    def __init__(self) -> None:
        self.made: dict[int, Recorded] = {}
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.fail = False

    async def __call__(self, number: int) -> LocalHandle:
        await self.may_start.wait()
        if self.fail:
            raise RuntimeError("no place left")
        self.made[number] = Recorded()
        await self.made[number].start()
        await self.made[number].pause()  # it serves once it holds the published version
        self.made[number].verbs.clear()
        return LocalHandle(self.made[number])


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def run(test: Awaitable[None]) -> None:
    async def within() -> None:
        await asyncio.wait_for(test, HANGS_S)

    asyncio.run(within())


async def set_up(
    tmp_path: Path, num_engines: int = 2, deadline_s: float = HANGS_S
) -> tuple[list[Recorded], ALearner, WeightPublisher]:
    engines = [Recorded() for _ in range(num_engines)]
    for engine in engines:
        await engine.start()
        engine.verbs.clear()
    learner = ALearner(a_model(0), tmp_path)
    handles = [LocalHandle(engine) for engine in engines]
    return engines, learner, WeightPublisher(Fleet(handles), learner, WeightsConfig(deadline_s=deadline_s))
