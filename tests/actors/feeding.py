"""The feeder with real workers, rewards and log in one process, and engines that follow a script.

Given engines and what a test does; runs it as `work` with everything started, and ends it all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from raylign.actors.elastic_fleet import ElasticFleet
from raylign.actors.experience_host import ExperienceHost
from raylign.actors.feeder import RolloutFeeder
from raylign.actors.handles import LocalHandle
from raylign.actors.reward_server import RewardServer
from raylign.actors.rollout_pool import RolloutPool
from raylign.actors.rollout_worker import RolloutWorker
from raylign.rewards.rules import ExactConfig
from raylign.rollout.engine.fake_engine import FakeEngine
from raylign.rollout.experience.schema import batch_to_groups, message_to_batch
from raylign.rollout.experience.types import START, Appended, ExperienceConfig
from raylign.rollout.sample import ENGINE_DIED, Failure, Group, Prompt
from raylign.rollout.sampling import SamplingConfig
from raylign.rollout.staleness import StalenessBound
from tests.patience import HANGS_S

SAMPLING = SamplingConfig(max_tokens=4, num_completions=2)


def prompt(ordinal: int) -> Prompt:
    return Prompt(
        prompt_id=str(ordinal), ordinal=ordinal, text="q", token_ids=np.ones(2, np.int32), references=("right",)
    )


class SickEngine(FakeEngine):
    """Spoils what `spoil` says, by attempt."""

    def __init__(self, spoil: Callable[[Group, int], Group]) -> None:
        super().__init__(lambda prompt, seed: "yes")
        self._spoil = spoil
        self._attempts: dict[int, int] = {}

    async def generate(self, prompt: Prompt, sampling: SamplingConfig, seed: int | None) -> Group:
        attempt = self._attempts[prompt.ordinal] = self._attempts.get(prompt.ordinal, 0) + 1
        return self._spoil(await super().generate(prompt, sampling, seed), attempt)


class NotingHost(ExperienceHost):
    """A log that notes what reaches it."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.appended: list[Group] = []

    async def append(self, message: Any) -> Appended:
        self.appended += batch_to_groups(message_to_batch(message))
        return await super().append(message)


@dataclass
class Fed:
    """A feeder at work."""

    feeder: RolloutFeeder
    host: NotingHost
    pool: RolloutPool
    read: list[Group] = field(default_factory=list)

    @property
    def fleet(self) -> ElasticFleet:
        assert isinstance(self.pool.fleet, ElasticFleet)
        return self.pool.fleet

    async def lease(self, count: int, step: int) -> str:
        lease = await self.host.lease(count, HANGS_S, step, HANGS_S)
        assert lease is not None, self.feeder.state()
        self.read += lease.rows.groups()
        return lease.lease_id

    async def train(self, count: int, step: int) -> None:
        """What the loop does with a step."""
        lease_id = await self.lease(count, step)
        self.feeder.step_trained(step + 1)
        await self.host.settle([lease_id], step)

    async def quiet(self) -> None:
        """Everything that may happen by itself has happened: nothing changes while the loop goes round and waits fifty
        times, which takes the longer the less the machine has left for it."""
        before, now = "", self.feeder.state()
        while before != now:
            for _ in range(50):
                await asyncio.sleep(0.004)
            before, now = now, self.feeder.state()

    async def until_logged(self, count: int) -> None:
        """So many groups come, and no more."""
        while (await self.host.state())[0].num_logged < count:
            await asyncio.sleep(0.01)
        await self.quiet()
        assert (await self.host.state())[0].num_logged == count

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await asyncio.sleep(0.001)

    @property
    def engines_at_work(self) -> set[int]:
        return {running.engine.number for running in self.feeder.running.by_ordinal.values()}

    @property
    def ordinals(self) -> list[int]:
        return [group.prompt.ordinal for group in self.read]


StartEngine = Callable[[int], Awaitable[FakeEngine]]


def started(start: StartEngine, workers: list[RolloutWorker]) -> Callable[[int], Awaitable[LocalHandle]]:
    """As `Fleet` wants it."""

    async def start_worker(number: int) -> LocalHandle:
        worker = RolloutWorker.around(await start(number))
        await worker.start()
        workers.append(worker)
        return LocalHandle(worker)

    return start_worker


def feed(
    folder: Path,
    work: Callable[[Fed], Coroutine[Any, Any, None]],
    engines: Sequence[FakeEngine],
    max_staleness: int = 2,
    groups_per_step: int = 4,
    num_steps: int = 100,
    ordered: bool = False,
    aborts_stale: bool = False,
    rewards: object = None,
    deadline_s: float = HANGS_S,
    config: ExperienceConfig | None = None,
    start: StartEngine | None = None,
) -> None:
    """`start`: gives the engine in the place of one that died."""

    async def run() -> None:
        host = NotingHost(folder, config or ExperienceConfig(), seed=0)
        opened = await host.start(START)
        workers = [RolloutWorker.around(engine) for engine in engines]
        for worker in workers:
            await worker.start()
        server = LocalHandle(rewards or RewardServer([ExactConfig(name="exact")]))
        fleet = ElasticFleet([LocalHandle(worker) for worker in workers], start=start and started(start, workers))
        pool = RolloutPool(fleet, server, deadline_s)
        feeder = RolloutFeeder(
            pool,
            LocalHandle(host),
            prompt,
            SAMPLING,
            StalenessBound(max_staleness, groups_per_step),
            step=0,
            num_steps=num_steps,
            missing=opened.missing_ordinals,
            next_ordinal=opened.next_ordinal,
            ordered=ordered,
            aborts_stale=aborts_stale,
        )
        await feeder.start()
        try:
            await asyncio.wait_for(work(Fed(feeder, host, pool)), HANGS_S)
        finally:
            await feeder.stop()
            await fleet.stop(5)
            await host.close()
            for worker in workers:
                await worker.stop()

    asyncio.run(run())


def answering(text: str = "yes", token_s: float = 0.0) -> FakeEngine:
    return FakeEngine(lambda prompt, seed: text, token_s)


def dies(group: Group, attempt: int) -> Group:
    return Group(group.prompt, (), failures=(Failure(ENGINE_DIED, "engine", "EngineCore ended with code -9"),))
