"""The reward server: waiting calls together, and a batch that fails concerns its own callers only."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from raylign.actors.reward_server import RewardServer
from raylign.rewards.rules import ExactConfig
from raylign.rollout.sample import Completion, Group, Prompt
from tests.patience import HANGS_S


def group(ordinal: int) -> Group:
    ids = np.zeros(1, np.int32)
    answer = Completion(ids, np.zeros(1, np.float32), (), "stop", "right")
    return Group(Prompt(str(ordinal), ordinal, "q", ids, ("right",)), (answer,))


class Watched(RewardServer):
    """Holds the first batch until told, and fails where asked."""

    def __init__(self, fails: bool) -> None:
        super().__init__([ExactConfig()])
        self.batches: list[int] = []
        self.go_on = threading.Event()
        self._fails = fails

    def _score(self, groups: Sequence[Group]) -> list[Group]:
        self.batches.append(len(groups))
        if len(self.batches) == 1:
            assert self.go_on.wait(HANGS_S)
            if self._fails:
                raise RuntimeError("the scorer broke")
        return super()._score(groups)


@pytest.mark.parametrize("fails", [False, True])
def test_calls_that_wait_are_scored_together_whatever_became_of_the_batch_before(fails: bool) -> None:
    async def run() -> None:
        server = Watched(fails)
        first = asyncio.create_task(server.score([group(0)]))
        while not server.batches:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(server.score([group(n), group(n + 1)])) for n in (1, 3, 5)]
        while len(server._waiting) < 3:
            await asyncio.sleep(0.001)
        server.go_on.set()
        async with asyncio.timeout(HANGS_S):
            answers = await asyncio.gather(first, *others, return_exceptions=True)
        assert server.batches == [1, 6]
        assert isinstance(answers[0], RuntimeError) is fails
        for number, scored in zip((1, 3, 5), answers[1:], strict=True):
            assert not isinstance(scored, BaseException)
            assert [one.prompt.ordinal for one in scored] == [number, number + 1], "each caller its own groups"
            assert all(one.total_rewards is not None and one.total_rewards.tolist() == [1.0] for one in scored)
        await server.close()

    asyncio.run(run())
