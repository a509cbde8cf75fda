"""The reward server: a group waits for its own scores alone; groups and counts come back as they were asked for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from raylign.actors.reward_server import RewardServer
from raylign.rewards.base import Item, Reward, RewardFailure, Score
from raylign.rewards.registry import AnyRewardConfig
from raylign.rewards.rules import ExactConfig, NumericConfig
from raylign.rollout.sample import Completion, Group, Prompt
from tests.patience import HANGS_S


def group(ordinal: int, text: str = "right") -> Group:
    ids = np.zeros(1, np.int32)
    answer = Completion(ids, np.zeros(1, np.float32), (), "stop", text)
    return Group(Prompt(str(ordinal), ordinal, f"q{ordinal}", ids, ("right",)), (answer,))


class Judge(Reward):
    """Holds the calls for some prompts until told, and fails where asked."""

    def __init__(self, held: str = "", fails: bool = False, is_batched: bool = False) -> None:
        self.is_batched = is_batched
        self.calls: list[list[str]] = []
        self.go_on, self.is_held = threading.Event(), threading.Event()
        self._held, self._fails = held, fails

    def score(self, items: Sequence[Item]) -> list[list[Score]]:
        self.calls.append([item.prompt for item in items])
        if any(item.prompt == self._held for item in items):
            self.is_held.set()
            assert self.go_on.wait(HANGS_S)
            if self._fails:
                raise RuntimeError("the judge broke")
        return [[float(item.prompt[1:])] for item in items]


def served(judge: Judge) -> RewardServer:
    def build(config: AnyRewardConfig) -> Reward:
        return judge

    return RewardServer([ExactConfig()], build)


def ordinals(groups: Sequence[Group]) -> list[int]:
    return [each.prompt.ordinal for each in groups]


@pytest.mark.parametrize("fails", [False, True])
def test_a_slow_judge_call_holds_up_its_own_group_and_nobody_elses(fails: bool) -> None:
    async def run() -> None:
        judge = Judge(held="q0", fails=fails)
        server = served(judge)
        slow = asyncio.create_task(server.score([group(0)]))
        await asyncio.to_thread(judge.is_held.wait, HANGS_S)
        async with asyncio.timeout(HANGS_S):
            others = await asyncio.gather(*(server.score([group(n), group(n + 1)]) for n in (1, 3, 5)))
        assert not slow.done()
        assert [ordinals(groups) for groups in others] == [[1, 2], [3, 4], [5, 6]], "each caller its own, in order"
        scores = [one.total_rewards for groups in others for one in groups]
        assert [float(total_G[0]) for total_G in scores if total_G is not None] == [1, 2, 3, 4, 5, 6]
        judge.go_on.set()
        (first,) = await slow
        assert len(judge.calls) == 7 and [failure.kind for failure in first.failures] == ["exception"] * fails
        await server.close()

    asyncio.run(run())


def test_order_within_a_call_is_that_of_its_groups_though_the_first_is_scored_last() -> None:
    async def run() -> None:
        judge = Judge(held="q0")
        server = served(judge)
        call = asyncio.create_task(server.score([group(0), group(1), group(2)]))
        while len(judge.calls) < 3:
            await asyncio.sleep(0.01)
        judge.go_on.set()
        assert ordinals(await call) == [0, 1, 2]
        await server.close()

    asyncio.run(run())


def test_a_model_gets_all_groups_that_wait_at_once() -> None:
    async def run() -> None:
        judge = Judge(held="q0", is_batched=True)
        server = served(judge)
        first = asyncio.create_task(server.score([group(0)]))
        await asyncio.to_thread(judge.is_held.wait, HANGS_S)
        others = [asyncio.create_task(server.score([group(n), group(n + 1)])) for n in (1, 3, 5)]
        while len(server._lanes[0]._waiting) < 6:
            await asyncio.sleep(0.001)
        judge.go_on.set()
        async with asyncio.timeout(HANGS_S):
            await asyncio.gather(first, *others)
        assert [len(call) for call in judge.calls] == [1, 6]
        await server.close()

    asyncio.run(run())


def test_rewards_of_one_group_are_scored_side_by_side_and_summed_by_weight() -> None:
    class None_(Reward):
        def score(self, items: Sequence[Item]) -> list[list[Score]]:
            return [[RewardFailure("not_applicable", "")] for _ in items]

    async def run() -> None:
        server = RewardServer(
            [ExactConfig(weight=2), NumericConfig()],
            lambda config: None_() if isinstance(config, NumericConfig) else Judge(),
        )
        (scored,) = await server.score([group(3)])
        assert scored.total_rewards is not None and scored.total_rewards.tolist() == [6.0]
        assert scored.failures == () and np.isnan(scored.rewards["numeric"]).all()
        await server.close()

    asyncio.run(run())
