"""A reward server: the Ray host of a run's rewards.

Given finished groups, gives them scored. Failures are values on the group; a server call itself only fails when the
process dies; Ray then starts it again, and repeats the call (`RETRIES`).

    callers ── score ──▶ each group by itself ──▶ each reward by itself ── in a thread, several at once
                                                  a model: all groups that wait, as soon as those before are done

A group waits for its own scores alone: a judge that takes 30 s for one holds up nobody else's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from raylign.rewards.base import Item, Reward, Score
from raylign.rewards.registry import AnyRewardConfig, RewardConfig, build_reward
from raylign.rewards.scoring import Scorer
from raylign.rollout.experience.schema import batch_to_message, groups_to_batch
from raylign.rollout.sample import Failure, Group

RETRIES = 3
"""Of a call that the server died in: one that it always dies of is an error."""


Timed = tuple[list[Score], float]
"""Scores of one item, and the seconds that they took."""


class _Lane:
    """One reward: items one by one, or all that wait together."""

    def __init__(self, scorer: Scorer, index: int) -> None:
        self._scorer, self._index = scorer, index
        reward = scorer.reward(index)
        self._is_batched = reward.is_batched
        self._threads = ThreadPoolExecutor(1 if reward.is_batched else reward.max_in_flight, f"reward-{index}")
        self._waiting: list[tuple[Item, asyncio.Future[Timed]]] = []
        self._scoring: asyncio.Task[None] | None = None

    async def score(self, item: Item) -> Timed:
        loop = asyncio.get_running_loop()
        if not self._is_batched:
            return (await loop.run_in_executor(self._threads, self._score, [item]))[0]
        scored: asyncio.Future[Timed] = loop.create_future()
        self._waiting.append((item, scored))
        if self._scoring is None or self._scoring.done():
            self._scoring = asyncio.create_task(self._score_waiting())
        return await scored

    async def _score_waiting(self) -> None:
        while self._waiting:
            calls, self._waiting = self._waiting, []
            items = [item for item, _ in calls]
            try:
                scored = await asyncio.get_running_loop().run_in_executor(self._threads, self._score, items)
            except Exception as error:  # the callers' to know; those who came meanwhile are still to be scored
                for _, answer in calls:
                    answer.set_exception(error)
                continue
            for (_, answer), scores in zip(calls, scored, strict=True):
                if not answer.cancelled():
                    answer.set_result(scores)

    def _score(self, items: Sequence[Item]) -> list[Timed]:
        start = time.perf_counter()
        scores = self._scorer.score_with(self._index, items)
        seconds = (time.perf_counter() - start) / len(items)
        return [(scores_G, seconds) for scores_G in scores]

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class RewardServer:
    """Scores groups with every configured reward."""

    def __init__(
        self, rewards: Sequence[RewardConfig], build: Callable[[AnyRewardConfig], Reward] = build_reward
    ) -> None:
        self._scorer = Scorer(rewards, build)
        self._lanes = [_Lane(self._scorer, index) for index in range(len(self._scorer.names))]

    async def ready(self) -> None:
        """Returns once rewards are loaded."""

    async def score(self, groups: Sequence[Group]) -> list[Group]:
        """The same groups with rewards, totals and failures, in order."""
        return list(await asyncio.gather(*map(self._score_group, groups)))

    async def score_for_log(self, groups: Sequence[Group]) -> NDArray[np.uint8]:
        """The same groups scored, as the experience log takes them."""
        return batch_to_message(groups_to_batch(await self.score(groups)))

    async def _score_group(self, group: Group) -> Group:
        item = item_of(group)
        timed_R = await asyncio.gather(*(lane.score(item) for lane in self._lanes))
        result = self._scorer.combined([scores_G for scores_G, _ in timed_R], len(item.completions))
        return group.scored(
            result.rewards,
            result.total,
            tuple(Failure(failure.kind, name, failure.message) for name, failure in result.failures),
            sum(seconds for _, seconds in timed_R),
        )

    async def close(self) -> None:
        """End the rewards' processes."""
        self._scorer.close()
        for lane in self._lanes:
            lane.close()


def item_of(group: Group) -> Item:
    """What a reward sees of a group."""
    return Item(
        prompt=group.prompt.text,
        completions=tuple(completion.text for completion in group.completions),
        references=group.prompt.references,
        messages=group.prompt.messages,
        row=group.prompt.row,
        num_tokens=tuple(len(completion.token_ids) for completion in group.completions),
        finished=tuple(completion.stop_reason == "stop" for completion in group.completions),
    )
