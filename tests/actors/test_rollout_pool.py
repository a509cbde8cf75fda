"""Failures in the pool end a `collect` at once, with the last words of whoever failed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from raylign.actors.handles import LocalHandle
from raylign.actors.rollout_pool import RewardServerError, RolloutError, RolloutPool
from raylign.rollout.sample import Completion, Failure, Group, Prompt, VersionSpan
from raylign.rollout.sampling import SamplingConfig
from tests.patience import HANGS_S


class Worker:
    """Completes all prompts but those whose ordinal is in `failing`."""

    def __init__(self, failing: Sequence[int]) -> None:
        self._failing = failing
        self._finished: list[Group] = []

    async def submit(self, prompts: Sequence[Prompt], sampling: SamplingConfig, ordered: bool) -> None:
        for prompt in prompts:
            if prompt.ordinal in self._failing:
                failure = Failure("engine", "engine", "EngineCore ended with code -9")
                self._finished.append(Group(prompt, (), failures=(failure,)))
            else:
                self._finished.append(Group(prompt, (COMPLETION,)))

    async def take(self, deadline_s: float) -> list[Group]:
        taken, self._finished = self._finished, []
        return taken


class Rewards:
    def __init__(self, broken: bool = False) -> None:
        self._broken = broken

    async def score(self, groups: list[Group]) -> list[Group]:
        if self._broken:
            raise RuntimeError("the actor died")
        one = np.ones(1, np.float32)
        return [replace(group, rewards={"exact": one}, total_rewards=one) for group in groups]


COMPLETION = Completion(np.ones(1, np.int32), np.zeros(1, np.float32), (VersionSpan(0, 1, 0),), "stop", "a")
PROMPTS = [Prompt(prompt_id=str(n), ordinal=n, token_ids=np.ones(2, np.int32), text="a") for n in range(4)]


def collect(workers: Sequence[Worker], rewards: Rewards) -> list[Group]:
    pool = RolloutPool([LocalHandle(worker) for worker in workers], LocalHandle(rewards), deadline_s=HANGS_S)
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
