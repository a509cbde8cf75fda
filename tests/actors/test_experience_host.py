"""The experience host: waits that end, many producers, a Ray actor that is killed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raylign.actors.experience_host import ExperienceHost
from raylign.rollout.experience.schema import batch_to_message, groups_to_batch
from raylign.rollout.experience.types import (
    START,
    ExperienceConfig,
    ExperienceFullError,
    Held,
    Lease,
    LeaseExpiredError,
)
from raylign.rollout.sample import Completion, Group, Prompt, VersionSpan
from tests.patience import HANGS_S

CONFIG = ExperienceConfig()


def message(*ordinals: int, num_tokens: int = 3) -> Any:
    def group(ordinal: int) -> Group:
        token_ids = np.full(num_tokens, ordinal, np.int32)
        logps = np.zeros(num_tokens, np.float32)
        completion = Completion(token_ids, logps, (VersionSpan(0, 0, num_tokens),), "stop", "a")
        return Group(Prompt(str(ordinal), ordinal, "2 + 3", token_ids), (completion,), {}, np.ones(1, np.float32))

    return batch_to_message(groups_to_batch([group(ordinal) for ordinal in ordinals]))


def ordinals_of(lease: Lease | None) -> list[int]:
    assert lease is not None
    groups = lease.rows.groups()
    assert all((group.completions[0].token_ids == group.prompt.ordinal).all() for group in groups)
    return [group.prompt.ordinal for group in groups]


def test_a_lease_waits_for_enough_groups_and_never_longer_than_its_deadline(tmp_path: Path) -> None:
    async def scene() -> None:
        host = ExperienceHost(tmp_path, CONFIG)
        await host.start(START)
        start = time.monotonic()
        assert await asyncio.wait_for(host.lease(1, HANGS_S, 0, 0.05), HANGS_S / 2) is None
        assert time.monotonic() - start > 0.04
        waiting = asyncio.create_task(host.lease(3, HANGS_S, 0, HANGS_S))
        for ordinal in range(3):
            await asyncio.sleep(0.01)
            assert not waiting.done()
            await host.append(message(ordinal))
        lease = await asyncio.wait_for(waiting, HANGS_S)
        assert ordinals_of(lease) == [0, 1, 2]
        await host.close()

    asyncio.run(scene())


def test_an_expiring_lease_wakes_who_waits_for_its_groups(tmp_path: Path) -> None:
    async def scene() -> None:
        host = ExperienceHost(tmp_path, CONFIG)
        await host.start(START)
        await host.append(message(0, 1))
        first = await host.lease(2, 0.1, 0, 0)
        assert ordinals_of(await host.lease(2, HANGS_S, 0, HANGS_S)) == [0, 1]
        assert first is not None
        with pytest.raises(LeaseExpiredError):
            await host.settle([first.lease_id], 0)
        await host.close()

    asyncio.run(scene())


def test_a_lease_larger_than_the_budget_has_room_for_all_that_it_lacks_as_soon_as_it_waits(tmp_path: Path) -> None:
    """Else the rest of the step would be generated a group at a time."""
    config = ExperienceConfig(max_unread_mib=2.5 * message(0).nbytes / 2**20)

    async def scene() -> None:
        host = ExperienceHost(tmp_path, config)
        await host.start(START)
        for ordinal in range(3):
            await host.append(message(ordinal))
        assert (await host.arrivals(HANGS_S)).num_room == 0
        news = asyncio.create_task(host.arrivals(HANGS_S))
        asking = asyncio.create_task(host.lease(8, HANGS_S, 0, HANGS_S))
        assert (await asyncio.wait_for(news, HANGS_S)).num_room == 5
        for ordinal in range(3, 8):
            await host.append(message(ordinal))
        assert ordinals_of(await asyncio.wait_for(asking, HANGS_S)) == [*range(8)]
        assert (await host.arrivals(HANGS_S)).num_room == 2
        await host.close()

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("to_producer", "to_learner"), [(0.0, 0.002), (0.002, 0.0)], ids=["slow learner", "slow rollouts"]
)
def test_producers_and_learner_of_any_speed_finish_with_room_for_one_group(
    tmp_path: Path, to_producer: float, to_learner: float
) -> None:
    """Capacity 1: more than one group is over the budget, and a step takes four."""
    config = ExperienceConfig(max_unread_mib=1e-6 + message(0).nbytes / 2**20)
    num_producers, num_each, count = 5, 16, 4
    most_waiting = 0

    async def produce(host: ExperienceHost, number: int) -> None:
        nonlocal most_waiting
        for ordinal in range(number, num_producers * num_each, num_producers):
            while not (await host.state())[1]:
                await asyncio.sleep(0.0005)
            await host.append(message(ordinal))
            most_waiting = max(most_waiting, (await host.state())[0].unread_groups)
            await asyncio.sleep(to_producer)

    async def learn(host: ExperienceHost) -> list[int]:
        trained: list[int] = []
        for step in range(num_producers * num_each // count):
            lease = await host.lease(count, HANGS_S, step, HANGS_S)
            assert lease is not None
            trained += ordinals_of(lease)
            await host.settle([lease.lease_id], step)
            await asyncio.sleep(to_learner)
        return trained

    async def scene() -> list[int]:
        host = ExperienceHost(tmp_path, config)
        await host.start(START)
        producers = [produce(host, number) for number in range(num_producers)]
        learner = asyncio.create_task(learn(host))
        await asyncio.wait_for(asyncio.gather(learner, *producers), HANGS_S)
        trained = learner.result()
        await host.close()
        return trained

    assert sorted(asyncio.run(scene())) == list(range(num_producers * num_each))
    assert most_waiting <= count + num_producers


@pytest.fixture(scope="module")
def ray_here() -> Iterator[Any]:
    import ray

    from raylign.actors.cluster import ClusterConfig, ray_cluster

    with ray_cluster(ClusterConfig(address="local", num_cpus=4, object_store_mib=100)):
        yield ray


@pytest.mark.ray
def test_nothing_acknowledged_is_lost_when_the_actor_is_killed_between_many_producers(
    tmp_path: Path, ray_here: Any
) -> None:
    """Five producers, an actor killed with kill -9 and started again by Ray, a learner that goes on where it was."""
    ray = ray_here

    @ray.remote(num_cpus=0)
    def produce(host: Any, first: int) -> list[int]:
        acknowledged: list[int] = []
        for ordinal in range(first, first + 40, 4):
            ordinals = range(ordinal, ordinal + 4)
            while True:
                try:
                    ray.get(host.append.remote(message(*ordinals, num_tokens=10_000)), timeout=HANGS_S)
                    break
                except ray.exceptions.RayActorError:  # killed in the middle: send it again
                    time.sleep(0.05)
            acknowledged += ordinals
        return acknowledged

    import os
    import signal

    host = ray.remote(ExperienceHost).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote(tmp_path, CONFIG)
    ray.get(host.start.remote(START), timeout=HANGS_S)
    producers = [produce.remote(host, number * 40) for number in range(5)]
    lease = ray.get(host.lease.remote(30, HANGS_S, 0, HANGS_S), timeout=HANGS_S)
    trained = ordinals_of(lease)
    ray.get(host.settle.remote([lease.lease_id], 0), timeout=HANGS_S)
    held = ray.get(host.lease.remote(10, HANGS_S, 1, HANGS_S), timeout=HANGS_S)
    pid = ray.get(host.__ray_call__.remote(lambda _: os.getpid()), timeout=HANGS_S)
    os.kill(pid, signal.SIGKILL)
    acknowledged = sorted(ordinal for ordinals in ray.get(producers, timeout=HANGS_S) for ordinal in ordinals)
    assert acknowledged == list(range(200))
    with pytest.raises(LeaseExpiredError):  # leases ended with the process
        ray.get(host.settle.remote([held.lease_id], 1), timeout=HANGS_S)
    known = [Held(held.lease_id, held.offsets, tuple(held.weights.tolist()))]  # by whoever has them
    rest = ray.get(host.lease.remote(160, HANGS_S, 2, HANGS_S, known), timeout=HANGS_S)
    assert sorted(trained + ordinals_of(held) + ordinals_of(rest)) == list(range(200))
    for _ in range(2):  # as Ray does where the process dies before its answer is heard
        ray.get(host.settle.remote([held.lease_id], 1, known), timeout=HANGS_S)
        os.kill(ray.get(host.__ray_call__.remote(lambda _: os.getpid()), timeout=HANGS_S), signal.SIGKILL)
    arrivals = ray.get(host.arrivals.remote(0.0), timeout=HANGS_S)
    assert sorted(arrivals.ordinals) == list(range(200))  # nobody was told of the last of them
    rest = ray.get(host.lease.remote(160, HANGS_S, 1, HANGS_S), timeout=HANGS_S)
    ray.get(host.settle.remote([rest.lease_id], 1), timeout=HANGS_S)
    position = ray.get(host.position.remote(1), timeout=HANGS_S)
    ray.get(host.commit.remote(position), timeout=HANGS_S)
    counters, has_room = ray.get(host.state.remote(), timeout=HANGS_S)
    assert (counters.num_trained, counters.num_logged, position.low_water, has_room) == (200, 200, 200, True)
    ray.kill(host)


@pytest.mark.ray
def test_a_full_disk_is_the_same_typed_error_at_the_producer(tmp_path: Path, ray_here: Any) -> None:
    ray = ray_here
    host = ray.remote(ExperienceHost).options(num_cpus=0).remote(tmp_path, CONFIG)
    ray.get(host.start.remote(START), timeout=HANGS_S)

    def limit(_: Any, num_bytes: int) -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))

    ray.get(host.append.remote(message(0)), timeout=HANGS_S)
    ray.get(host.__ray_call__.remote(limit, 10_000), timeout=HANGS_S)
    with pytest.raises(ExperienceFullError, match=r"(?s)segment-000000\.arrows.*make room"):
        ray.get(host.append.remote(message(1, num_tokens=10_000)), timeout=HANGS_S)
    ray.get(host.append.remote(message(2)), timeout=HANGS_S)
    assert ordinals_of(ray.get(host.lease.remote(2, HANGS_S, 0, HANGS_S), timeout=HANGS_S)) == [0, 2]
    ray.kill(host)
