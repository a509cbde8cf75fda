"""Chaos without models: scripted engines, real rewards, log, feeder and weight updates; one is killed at a time.

Given how many kills and how often; prints for each role what came of it. An engine, the log and the reward server are
processes of their own, ended by `kill -9`. The learner is part of this process: losing it is going back to the last
commit as a run does (`jobs/run/recovery.py`), with another log, another publisher and the engines that are there.

    .venv/bin/python -m benchmarks.chaos_scripted --kills 500 --every 2
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks.chaos import SUMS, accounts
from benchmarks.scripted import ScriptedEngine
from raylign.actors.rollout_worker import RolloutWorker

NUM_ENGINES, GROUPS_PER_STEP, ANSWER_TOKENS, MAX_STALENESS = 4, 16, 32, 2
GROUP_S, STEP_S = 0.05, 0.05
"""What a group takes an engine, and a step the learner."""
COMMIT_EVERY = 20
"""Steps between two checkpoints."""
STUCK_S = 120.0
"""Without a further step for so long, the kill is not recovered from."""
ROLES = ("engine", "experience log", "reward server", "learner")


class ScriptedWorker(RolloutWorker):
    """A rollout worker around a scripted engine, which holds real weights."""

    def __init__(self) -> None:
        self._host(ScriptedEngine(ANSWER_TOKENS, GROUP_S), 0, 0)

    async def pid(self) -> int:
        return os.getpid()


class ALearner:
    """The learner's end of weight updates: a few weights, which are their version."""

    def __init__(self, folder: Path) -> None:
        from raylign.rollout.weights.buckets import SharedMemorySender

        self._sender = SharedMemorySender(1 << 16, folder)

    async def export_weights(self, version: int) -> Any:
        import torch

        return self._sender.export(version, [("weight", torch.full((1000,), float(version)))])

    async def release_weights(self) -> None:
        self._sender.release()


class Loop:
    """The train loop, as far as log and engines can tell."""

    def __init__(self, config: Any, curriculum: Any, pool: Any, folder: Path) -> None:
        self._config, self._curriculum, self._pool, self._folder = config, curriculum, pool, folder
        self._learner = ALearner(folder / "weights")
        self.step = self.furthest = self._committed = 0
        self._position: dict[str, Any] | None = None
        self._flow: Any = None
        self._publisher: Any = None
        self.moments: list[float] = []
        """When the loop got further than ever."""

    async def open(self) -> None:
        """From the last commit, as `RunParts` and `Run` do it."""
        from raylign.actors.weights.config import WeightsConfig
        from raylign.actors.weights.publisher import WeightPublisher
        from raylign.jobs.run.experience_flow import LiveFlow

        self.step = self._committed
        config = WeightsConfig(deadline_s=30)
        self._publisher = WeightPublisher(self._pool.fleet, self._learner, config, self.step)
        if self._flow is not None:
            await self._pool.forget()
            await self._publisher.catch_up()
        self._flow = await LiveFlow.start(
            self._config, self._pool, self._curriculum, self._folder / "experience",
            step=self.step, position=self._position, takes_turns=False,
        )  # fmt: skip

    async def close(self) -> None:
        await self._flow.stop()
        await self._publisher.close()

    async def run(self) -> None:
        """Forever."""
        while True:
            batch = await self._flow.batches.next(self.step)
            await self._publisher.before_learning()
            await asyncio.sleep(STEP_S)
            await self._publisher.publish(self.step + 1)
            _, position = await self._flow.trained(batch)
            self.step += 1
            if self.step > self.furthest:
                self.furthest = self.step
                self.moments.append(time.monotonic())
            if self.step % COMMIT_EVERY == 0:
                await self._flow.commit()
                self._committed, self._position = self.step, position

    @property
    def log(self) -> Any:
        """The actor."""
        return self._flow._log


async def chaos(num_kills: int, every_s: float, folder: Path) -> None:
    """The table, on standard output."""
    loop, pool = await opened(folder)
    going = asyncio.create_task(loop.run())
    done: dict[str, list[float]] = {role: [] for role in ROLES}
    try:
        while loop.furthest < 50:
            await asyncio.sleep(0.1)
            if going.done():
                await going
        first, began = loop.furthest, time.monotonic()
        await asyncio.sleep(10 * every_s)
        rate = (loop.furthest - first) / (time.monotonic() - began)
        print(f"undisturbed: {rate:.1f} steps/s", flush=True)
        first, began = loop.furthest, time.monotonic()
        for number in range(num_kills):
            role = ROLES[number % len(ROLES)]
            at, step = time.monotonic(), loop.furthest
            if role == "learner":
                going.cancel()
                await asyncio.gather(going, return_exceptions=True)
                await loop.close()
                await loop.open()
                going = asyncio.create_task(loop.run())
            else:
                await kill_one(role, pool, loop)
            while time.monotonic() < at + every_s or loop.furthest == step:
                await asyncio.sleep(0.01)
                if going.done():
                    await going
                assert time.monotonic() - at < STUCK_S, f"kill {number} of the {role}: stuck at step {loop.step}"
            done[role].append(longest_pause_end(loop.moments, at))
            if number % 50 == 49:
                print(f"{number + 1} kills, step {loop.furthest}", flush=True)
        share = (loop.furthest - first) / (rate * (time.monotonic() - began))
    finally:
        going.cancel()
        await asyncio.gather(going, return_exceptions=True)
        await loop.close()
        await pool.stop()
    print(
        f"effective training time: {share:.2f} over {num_kills} kills, one every {every_s:g} s or as soon as it went on"
    )
    print("| role | recovered | median s to the end of the longest pause | max s |\n|---|---|---|---|")
    for role, seconds in done.items():
        if seconds:
            found = f"{len(seconds)} of {len(seconds)} | {statistics.median(seconds):.1f} | {max(seconds):.1f}"
            print(f"| {role} | {found} |")
    num_lost, num_twice = accounts(folder, loop.step, (MAX_STALENESS + 2) * GROUPS_PER_STEP)
    print(f"\nprompts lost: {num_lost}; trained twice: {num_twice}")


def longest_pause_end(moments: list[float], since: float) -> float:
    """Seconds from `since` to the end of the longest time between two further steps."""
    seen = [since, *(moment for moment in moments if moment > since)]
    return max((b - a, b - since) for a, b in itertools.pairwise(seen))[1]


async def kill_one(role: str, pool: Any, loop: Loop) -> None:
    """`kill -9`."""
    if role == "engine":
        pid = await random.choice(pool.fleet.engines).handle.pid.remote()
    else:
        actor = loop.log if role == "experience log" else pool.reward_server
        pid = await actor.__ray_call__.remote(lambda _: os.getpid())
    os.kill(pid, signal.SIGKILL)


async def opened(folder: Path) -> tuple[Loop, Any]:
    """Everything started."""
    import ray

    from raylign.actors.fleet import Fleet
    from raylign.actors.rollout_pool import RolloutPool
    from raylign.jobs.config.train import TrainConfig
    from raylign.jobs.curricula.registry import open_curriculum
    from raylign.jobs.init_model import InitModelConfig, init_model
    from raylign.jobs.run.roles import start_reward_server
    from raylign.rollout.data.config import DataConfig
    from raylign.rollout.model_folder import load_tokenizer

    model = init_model(InitModelConfig(output=folder / "model", data=DataConfig(**SUMS), width=64, num_heads=2))
    config = TrainConfig.model_validate(
        {
            "folder": str(folder),
            "num_steps": 1_000_000,
            "data": SUMS,
            "model": {"path": str(model)},
            "sampling": {"num_completions": 4, "max_tokens": ANSWER_TOKENS},
            "rollout": {"prompts_per_step": GROUPS_PER_STEP, "max_reward_failures": 1.0},
            "rewards": [{"name": "numeric"}],
            "async": {"max_staleness": MAX_STALENESS},
        }
    )
    (folder / "weights").mkdir()
    start_worker = starter(ray.remote(ScriptedWorker).options(num_cpus=0, max_concurrency=1000))
    handles = await asyncio.gather(*map(start_worker, range(NUM_ENGINES)))
    pool = RolloutPool(Fleet(handles, start=start_worker), await start_reward_server(config.rewards), 120.0)
    loop = Loop(config, open_curriculum(config, load_tokenizer(str(model))), pool, folder)
    await loop.open()
    return loop, pool


def starter(actor: Any) -> Callable[[int], Awaitable[Any]]:
    """As a fleet wants it."""

    async def start_worker(number: int) -> Any:
        worker = actor.remote()
        await worker.start.remote()
        return worker

    return start_worker


def main() -> None:
    from raylign.actors.cluster import ClusterConfig, ray_cluster

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two kills")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    random.seed(given.seed)
    with (
        tempfile.TemporaryDirectory(prefix="raylign-chaos-", dir="/tmp") as folder,
        ray_cluster(ClusterConfig(address="local")),
    ):
        asyncio.run(chaos(given.kills, given.every, Path(folder)))


if __name__ == "__main__":
    main()
