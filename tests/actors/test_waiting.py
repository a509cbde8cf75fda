"""Waiting: what it says, when it ends, and whose words it raises. No test depends on how fast the machine is."""

from __future__ import annotations

import asyncio

import pytest
from ray.exceptions import RayTaskError

from raylign.actors.waiting import DeadlineError, cause_of, happens, wait_for


class NoRoomError(RuntimeError):
    pass


def test_an_answer_comes_through_and_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    async def answer() -> int:
        return 7

    assert asyncio.run(wait_for(answer(), "seven", 60)) == 7
    assert capsys.readouterr().out == ""


def test_a_long_wait_says_what_for_since_when_and_where_things_stand(capsys: pytest.CaptureFixture[str]) -> None:
    async def test() -> str:
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        num_looks = 0

        def state() -> str:
            nonlocal num_looks
            num_looks += 1
            if num_looks == 3:
                answer.set_result("there")
            return f"{num_looks} of 3"

        return await wait_for(answer, "the dog", 6000, state=state, report_s=0.5)

    assert asyncio.run(test()) == "there"
    assert capsys.readouterr().out.splitlines() == [
        "waiting for the dog since 0 s: 1 of 3",
        "waiting for the dog since 1 s: 2 of 3",
        "waiting for the dog since 2 s: 3 of 3",
    ]


def test_the_deadline_raises_the_callers_error_and_gives_the_call_up(capsys: pytest.CaptureFixture[str]) -> None:
    async def test() -> None:
        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with pytest.raises(NoRoomError) as caught:
            await wait_for(never, "room", 0.02, setting="a.key", error=NoRoomError, state=lambda: "short of 1")
        assert str(caught.value) == "no answer within 0.02 s from room: short of 1 (a.key)"
        await asyncio.sleep(0)
        assert never.cancelled()
        with pytest.raises(DeadlineError, match=r"^no answer within 0\.02 s from room$"):
            await wait_for(asyncio.sleep(60), "room", 0.02)

    asyncio.run(test())
    assert capsys.readouterr().out == ""  # a wait that is over is not waited for


def test_a_report_that_is_due_at_the_deadline_is_the_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DeadlineError):
        asyncio.run(wait_for(asyncio.sleep(60), "the dog", 0.02, report_s=0.01))
    assert capsys.readouterr().out == "waiting for the dog since 0 s\n"


def test_whoever_gives_up_waiting_gives_the_call_up() -> None:
    async def test() -> None:
        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = asyncio.create_task(wait_for(never, "nobody", 60))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert never.cancelled()

    asyncio.run(test())


def wrapped(cause: Exception) -> RayTaskError:
    """As Ray raises what an actor raised: an error of both kinds."""
    return RayTaskError("verb", "the traceback over there", cause, "ray::Actor", 1, "127.0.0.1").as_instanceof_cause()


def test_what_an_actor_raised_is_raised_without_its_wrapping_whose_traceback_stays_the_cause() -> None:
    error = NoRoomError("the dog ate it")
    outer = wrapped(error)

    async def fail() -> None:
        raise outer

    with pytest.raises(NoRoomError) as caught:
        asyncio.run(wait_for(fail(), "it", 60))
    assert caught.value is error and caught.value.__cause__ is outer


def test_errors_that_came_through_two_actors_are_unwrapped_twice_and_others_are_left_alone() -> None:
    error = NoRoomError("the dog ate it")
    assert cause_of(wrapped(wrapped(error))) is error
    assert cause_of(error) is error

    async def fail() -> None:
        raise error

    with pytest.raises(NoRoomError) as caught:
        asyncio.run(wait_for(fail(), "it", 60))
    assert caught.value is error and error.__cause__ is None


def test_an_event_happens_or_does_not() -> None:
    async def test() -> None:
        event = asyncio.Event()
        assert not await happens(event, 0.001)
        asyncio.get_running_loop().call_soon(event.set)
        assert await happens(event, 60)

    asyncio.run(test())
