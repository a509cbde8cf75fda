"""The mailbox as the loop and two ranks use it, without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from raylign.actors.learner.mailbox import Answer, Command, LearnerError, Mailbox
from tests.patience import HANGS_S

Rank = Callable[[Mailbox, int], Coroutine[Any, Any, None]]


async def call_with(rank: Rank, *verbs: str, deadline_s: float = HANGS_S) -> list[Any]:
    """The loop's results, with `rank` served twice."""
    mailbox = Mailbox(2)
    ranks = [asyncio.create_task(rank(mailbox, number)) for number in range(2)]
    try:
        return [await mailbox.call(Command(verb), deadline_s) for verb in verbs]
    finally:
        for task in ranks:
            task.cancel()


async def obedient(mailbox: Mailbox, rank: int) -> None:
    index = 0
    while (command := await mailbox.next(index)) is not None:
        await mailbox.done(index, rank, Answer(f"{command.verb} by {rank}"))
        index += 1


async def failing_on_one(mailbox: Mailbox, rank: int) -> None:
    command = await mailbox.next(0)
    assert command is not None
    if rank == 1:
        await mailbox.done(0, rank, Answer(traceback="ValueError: no such folder"))


async def silent_on_one(mailbox: Mailbox, rank: int) -> None:
    if rank == 0:
        await obedient(mailbox, rank)


def test_every_rank_runs_every_command_in_order_and_rank_0_answers() -> None:
    assert asyncio.run(call_with(obedient, "update", "save")) == ["update by 0", "save by 0"]


def test_the_first_rank_that_fails_ends_the_wait_with_its_traceback() -> None:
    with pytest.raises(LearnerError, match=r"rank 1 failed in `update`:\nValueError: no such folder"):
        asyncio.run(call_with(failing_on_one, "update"))


def test_a_rank_that_does_not_answer_is_named_after_the_deadline() -> None:
    with pytest.raises(LearnerError, match=r"`update` took over 2 s; ranks \[1\] have not answered"):
        asyncio.run(call_with(silent_on_one, "update", deadline_s=2))


def test_a_rank_finds_a_command_that_came_before_it_asked() -> None:
    async def late() -> Any:
        mailbox = Mailbox(1)
        call = asyncio.create_task(mailbox.call(Command("ready"), HANGS_S))
        await asyncio.sleep(0)
        assert await mailbox.next(0) == Command("ready")
        await mailbox.done(0, 0, Answer("built"))
        return await call

    assert asyncio.run(late()) == "built"
