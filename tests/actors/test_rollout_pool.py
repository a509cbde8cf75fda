"""Failures in the pool end a `collect` at once, with the last words of whoever failed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from raylign.actors.fleet import Engine, Fleet, FleetObserver
from raylign.actors.handles import LocalHandle
from raylign.actors.rollout_errors import RewardServerError, RolloutError
from raylign.actors.rollout_pool import RolloutPool
from raylign.rollout.engine.base import EngineDiedError
from raylign.rollout.sample import ENGINE_DIED, Completion, Failure, Group, Prompt, VersionSpan
from raylign.rollout.sampling import SamplingConfig
from tests.patience import HANGS_S


class Worker:
    """Completes all prompts but those whose ordinal is in `failing`."""

    def __init__(self, failing: Sequence[int] = ()) -> None:
        self._failing = failing
        self.ordinals: list[int] = []
        self.verbs: list[str] = []
        self._finished: list[Group] = []

    async def submit(self, prompts: Sequence[Prompt], sampling: SamplingConfig, ordered: bool) -> None:
        for prompt in prompts:
            self.ordinals.append(prompt.ordinal)
            if prompt.ordinal in self._failing:
                failure = Failure("engine", "engine", "EngineCore ended with code -9")
                self._finished.append(Group(prompt, (), failures=(failure,)))
            else:
                self._finished.append(Group(prompt, (COMPLETION,)))

    async def take(self, deadline_s: float) -> list[Group]:
        taken, self._finished = self._finished, []
        return taken

    async def sleep(self) -> None:
        self.verbs.append("sleep")

    async def wake(self) -> None:
        self.verbs.append("wake")

    async def stop(self) -> None:
        self.verbs.append("stop")


class Rewards:
    def __init__(self, broken: bool = False) -> None:
        self._broken = broken
        self.is_closed = False

    async def score(self, groups: list[Group]) -> list[Group]:
        if self._broken:
            raise RuntimeError("the actor died")
        one = np.ones(1, np.float32)
        return [replace(group, rewards={"exact": one}, total_rewards=one) for group in groups]

    async def close(self) -> None:
        self.is_closed = True


COMPLETION = Completion(np.ones(1, np.int32), np.zeros(1, np.float32), (VersionSpan(0, 1, 0),), "stop", "a")
PROMPTS = [Prompt(prompt_id=str(n), ordinal=n, token_ids=np.ones(2, np.int32), text="a") for n in range(4)]


def collect(workers: Sequence[Worker], rewards: Rewards) -> list[Group]:
    pool = RolloutPool(Fleet([LocalHandle(worker) for worker in workers]), LocalHandle(rewards), deadline_s=HANGS_S)
    return asyncio.run(pool.collect_all(PROMPTS, SamplingConfig()))


def test_a_failed_prompt_is_a_value_in_the_batch(capsys: pytest.CaptureFixture[str]) -> None:
    groups = collect([Worker([]), Worker([3])], Rewards())
    assert [len(group.completions) for group in groups] == [1, 1, 1, 0]
    assert "rollout worker 1: no completions for 1 prompts: EngineCore ended with code -9" in capsys.readouterr().out


def test_an_engine_that_answers_nothing_ends_the_run_with_its_last_words() -> None:
    with pytest.raises(RolloutError, match=r"worker 1 failed.*none of 2 prompts.*ended with code -9"):
        collect([Worker([]), Worker([1, 3])], Rewards())


def test_a_dead_reward_server_is_not_blamed_on_a_worker() -> None:
    with pytest.raises(RewardServerError, match="the reward server failed on 4 groups: the actor died"):
        collect([Worker([])], Rewards(broken=True))


def test_what_an_engine_leaves_when_it_dies_is_answered_by_the_one_in_its_place() -> None:
    class Dies(Worker):
        async def take(self, deadline_s: float) -> list[Group]:
            taken, self._finished = self._finished[:1], []
            if not taken:
                raise EngineDiedError("the actor died")
            return taken

    class DiesInside(Worker):
        async def take(self, deadline_s: float) -> list[Group]:
            failure = Failure(ENGINE_DIED, "engine", "EngineCore ended with code -9")
            return [Group(group.prompt, (), failures=(failure,)) for group in await super().take(deadline_s)]

    workers: list[Worker] = []

    async def start(number: int) -> LocalHandle:
        workers.append(DiesInside() if not workers else Worker())
        return LocalHandle(workers[-1])

    class Publishes(FleetObserver):
        async def engine_started(self, engine: Engine) -> None:
            fleet.mark_current(engine)

    fleet = Fleet([LocalHandle(Dies())], start=start)

    async def test() -> None:
        fleet.observe(Publishes())
        groups = await RolloutPool(fleet, LocalHandle(Rewards()), HANGS_S).collect_all(PROMPTS, SamplingConfig())
        assert [group.prompt.ordinal for group in groups] == [0, 1, 2, 3]
        assert all(len(group.completions) == 1 for group in groups)

    asyncio.run(test())
    assert [worker.ordinals for worker in workers] == [[1, 2, 3], [1, 2, 3]]


def a_pool(*workers: Worker, rewards: Rewards | None = None, deadline_s: float = HANGS_S) -> RolloutPool:
    return RolloutPool(
        Fleet([LocalHandle(worker) for worker in workers]), LocalHandle(rewards or Rewards()), deadline_s
    )


def test_only_engines_with_the_published_weights_answer_and_the_others_are_waited_for_where_there_is_none() -> None:
    async def test() -> None:
        workers = [Worker(), Worker(), Worker()]
        pool = a_pool(*workers)
        first, second, third = pool.fleet.engines
        pool.fleet.mark_stale(second)
        await pool.collect_all(PROMPTS, SamplingConfig())
        assert [worker.ordinals for worker in workers] == [[0, 2], [], [1, 3]]
        pool.fleet.mark_stale(first)
        pool.fleet.mark_stale(third)
        collecting = asyncio.create_task(pool.collect_all(PROMPTS, SamplingConfig()))
        await asyncio.sleep(0.01)
        assert not collecting.done()
        pool.fleet.mark_current(second)
        assert [group.prompt.ordinal for group in await collecting] == [0, 1, 2, 3]
        assert workers[1].ordinals == [0, 1, 2, 3]

    asyncio.run(test())


def test_a_fleet_that_has_failed_is_asked_nothing() -> None:
    async def test() -> None:
        pool = a_pool(Worker(), Worker())
        pool.fleet.mark_lost(pool.fleet.engines[0], "it died")
        with pytest.raises(RolloutError, match="it died"):
            await pool.collect_all(PROMPTS, SamplingConfig())

    asyncio.run(test())


def test_answers_that_never_come_end_with_what_was_waited_for() -> None:
    class Silent(Worker):
        async def take(self, deadline_s: float) -> list[Group]:
            await asyncio.sleep(6000)
            return []

    words = r"no answer within 1 s from 2 of 4 groups \(rollout.answer_deadline_s\)"
    with pytest.raises(RolloutError, match=words):
        asyncio.run(a_pool(Worker(), Silent(), deadline_s=1).collect_all(PROMPTS, SamplingConfig()))


def test_evaluations_have_rewards_of_their_own_and_everything_ends_together() -> None:
    async def test() -> None:
        worker, rewards, others = Worker(), Rewards(), Rewards(broken=True)
        pool = a_pool(worker, rewards=rewards)
        evaluation = pool.with_rewards(LocalHandle(others))
        with pytest.raises(RewardServerError):
            await evaluation.collect_all(PROMPTS, SamplingConfig())
        assert len(await pool.collect_all(PROMPTS, SamplingConfig())) == 4
        await pool.sleep()
        await pool.wake()
        await pool.stop()
        assert worker.verbs == ["sleep", "wake", "stop"] and rewards.is_closed and others.is_closed
        assert pool.fleet.engines == []

    asyncio.run(test())
