"""An actor that hangs is started again; one that answers, or is on its way back, is left alone."""

from __future__ import annotations

import asyncio

import pytest

from raylign.actors import sign_of_life
from raylign.actors.sign_of_life import keep_answering


def test_a_silent_actor_is_started_again_and_then_given_the_time_of_a_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sign_of_life, "ASK_EVERY_S", 0.0)
    monkeypatch.setattr(sign_of_life, "SILENCE_S", 0.02)
    asked: list[str] = []

    async def ask() -> None:
        asked.append("asked")
        if len(asked) == 2:
            await asyncio.Event().wait()  # it hangs
        if len(asked) == 3:
            await asyncio.sleep(0.2)  # it starts
        if len(asked) == 4:
            raise RuntimeError("dead")  # by itself: Ray starts it again

    async def test() -> None:
        again = asyncio.Event()
        watch = asyncio.create_task(keep_answering("the log", ask, again.set, start_s=60.0))
        await again.wait()
        asked.append("started again")
        while len(asked) < 8:
            await asyncio.sleep(0.001)
        watch.cancel()

    asyncio.run(test())
    assert asked.count("started again") == 1
    assert capsys.readouterr().out == "the log has not answered for 0 s; starting its process again\n"
