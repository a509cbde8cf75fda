"""A reward server: the Ray host of a run's rewards.

Given finished groups, gives them scored. Failures are values on the group; a server call itself only fails when the
process dies; Ray then starts it again, and repeats the call (`RESTARTS`).

    callers ── score ──▶ waiting groups ── all of them, as soon as the batch before is done ──▶ one thread
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from raylign.rewards.base import Item
from raylign.rewards.registry import RewardConfig
from raylign.rewards.scoring import Scorer
from raylign.rollout.experience.schema import batch_to_message, groups_to_batch
from raylign.rollout.sample import Failure, Group

RESTARTS = 3
"""Of the server in a run, and tries of a call that it died in."""


class RewardServer:
    """Scores groups with every configured reward."""

    def __init__(self, rewards: Sequence[RewardConfig]) -> None:
        self._scorer = Scorer(rewards)
        self._thread = ThreadPoolExecutor(1)
        self._waiting: list[tuple[Sequence[Group], asyncio.Future[list[Group]]]] = []
        self._scoring: asyncio.Task[None] | None = None

    async def ready(self) -> None:
        """Returns once rewards are loaded."""

    async def score(self, groups: Sequence[Group]) -> list[Group]:
        """The same groups with rewards, totals and failures. Calls that wait meanwhile are scored together."""
        scored: asyncio.Future[list[Group]] = asyncio.get_running_loop().create_future()
        self._waiting.append((groups, scored))
        if self._scoring is None or self._scoring.done():
            self._scoring = asyncio.create_task(self._score_waiting())
        return await scored

    async def score_for_log(self, groups: Sequence[Group]) -> NDArray[np.uint8]:
        """The same groups scored, as the experience log takes them."""
        return batch_to_message(groups_to_batch(await self.score(groups)))

    async def _score_waiting(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            calls, self._waiting = self._waiting, []
            groups = [group for asked, _ in calls for group in asked]
            try:
                scored = await loop.run_in_executor(self._thread, self._score, groups)
            except Exception as error:  # the callers' to know; those who came meanwhile are still to be scored
                for _, answer in calls:
                    answer.set_exception(error)
                continue
            for asked, answer in calls:
                answer.set_result(scored[: len(asked)])
                scored = scored[len(asked) :]

    def _score(self, groups: Sequence[Group]) -> list[Group]:
        start = time.perf_counter()
        scored = self._scorer.score([item_of(group) for group in groups])
        seconds = time.perf_counter() - start
        return [
            group.scored(
                result.rewards,
                result.total,
                tuple(Failure(failure.kind, name, failure.message) for name, failure in result.failures),
                seconds / max(len(groups), 1),
            )
            for group, result in zip(groups, scored, strict=True)
        ]

    async def close(self) -> None:
        """End the rewards' processes."""
        self._scorer.close()
        self._thread.shutdown(wait=False)


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
