"""A learner that ends while nobody asks it for anything: whoever waits for others hears of it. Without Ray."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from raylign.actors.handles import LocalHandle
from raylign.actors.learner.group import LearnerGroup
from raylign.actors.learner.liveness import while_it_lives
from raylign.actors.learner.mailbox import Answer, LearnerError, Mailbox, MailboxHandle
from raylign.jobs.config.loading import load_config
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.run.parts import RunParts
from raylign.learners.algorithms.facts import RunRows
from tests.patience import HANGS_S

KILLED = RuntimeError("process 7 was killed")


class Ended(LearnerGroup):
    """A group whose ranks are the test's: `end` is what Ray Train tells."""

    def __init__(self) -> None:
        parts = RunParts(load_config(TrainConfig, [], {"rewards": [{"name": "exact"}]}))
        super().__init__(parts._learner_spec(1, Path("unused"), None, RunRows(0, "", 1, 1), []), 1.0, 0.0)
        self.mailbox = Mailbox(1)
        self._mailbox = cast(MailboxHandle, LocalHandle(self.mailbox))
        self._fit = asyncio.get_running_loop().create_future()

    def end(self, error: Exception = KILLED) -> None:
        assert self._fit is not None
        self._fit.set_exception(error)


def run(scene: Any) -> None:
    asyncio.run(asyncio.wait_for(scene(), HANGS_S))


def test_a_wait_for_others_ends_with_the_learner_and_gives_up_what_it_waited_for() -> None:
    async def scene() -> None:
        group, was_given_up = Ended(), asyncio.Event()

        async def others() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                was_given_up.set()

        waiting = asyncio.create_task(while_it_lives(group, others()))
        await asyncio.sleep(0)
        group.end()
        with pytest.raises(LearnerError, match=r"ended while nothing was asked of it: process 7 was killed"):
            await waiting
        assert was_given_up.is_set()
        assert group.failure is not None and not group.failure.is_final

    run(scene)


def test_what_others_give_or_raise_comes_through_while_the_learner_lives() -> None:
    async def scene() -> None:
        group = Ended()
        assert await while_it_lives(group, asyncio.sleep(0, "groups")) == "groups"

        async def fails() -> None:
            raise ValueError("no such prompt")

        with pytest.raises(ValueError, match="no such prompt"):
            await while_it_lives(group, fails())
        assert group.failure is None

    run(scene)


def test_a_verb_under_way_says_why_before_the_end_is_told() -> None:
    """Its rank's traceback decides whether another group would meet the same."""

    async def scene() -> None:
        group = Ended()
        asked = asyncio.create_task(group._send("update", None, HANGS_S))
        told = asyncio.create_task(group.lost())
        await group.mailbox.next(0)
        group.end()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not told.done()
        await group.mailbox.done(0, 0, Answer(traceback="ValueError: no such row", is_final=True))
        with pytest.raises(LearnerError, match="no such row"):
            await asked
        assert (await told) is group.failure
        assert group.failure is not None and group.failure.is_final

    run(scene)
