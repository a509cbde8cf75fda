"""An actor that hangs is started again, an engine replaced; one that answers, or is on its way back, is left alone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from raylign.actors import sign_of_life
from raylign.actors.fleet import EngineState
from raylign.actors.sign_of_life import keep_answering, watch_engines
from raylign.actors.waiting import DeadlineError
from raylign.rollout.engine.fake_engine import FakeEngine
from tests.actors.feeding import Fed, answering, feed


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


def test_an_actor_that_is_only_busy_is_given_twice_as_long_each_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sign_of_life, "ASK_EVERY_S", 0.0)
    monkeypatch.setattr(sign_of_life, "SILENCE_S", 1.0)
    patience: list[float] = []

    async def waits(answer: Any, what: str, patience_s: float, report_s: float) -> None:
        answer.close()
        patience.append(patience_s)
        if patience_s < 8.0:  # what it is busy with takes so long; a start does not
            raise DeadlineError(what)
        await asyncio.sleep(0)

    monkeypatch.setattr(sign_of_life, "wait_for", waits)

    async def ask() -> None:
        pass

    async def test() -> None:
        watch = asyncio.create_task(keep_answering("the log", ask, lambda: None, start_s=60.0))
        while len(patience) < 9:
            await asyncio.sleep(0)
        watch.cancel()

    asyncio.run(test())
    assert patience[:9] == [60.0, 1.0, 60.0, 2.0, 60.0, 4.0, 60.0, 8.0, 8.0]


def test_an_engine_that_hangs_is_replaced_but_not_while_it_is_updated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sign_of_life, "ASK_EVERY_S", 0.0)
    asked: list[str] = []

    class Hangs(FakeEngine):
        async def ping(self) -> None:
            asked.append("hangs")
            await asyncio.Event().wait()

    class Refuses(FakeEngine):
        async def ping(self) -> None:
            asked.append("refuses")
            raise RuntimeError("it is ending")

    started: list[FakeEngine] = []

    async def another(number: int) -> FakeEngine:
        started.append(answering())
        return started[-1]

    async def work(fed: Fed) -> None:
        hanging = fed.fleet.engines[0]
        watch = asyncio.create_task(watch_engines(fed.fleet, 0.05))
        await fed.until(lambda: "hangs" in asked)
        fed.fleet.mark_stale(hanging)
        await fed.until(lambda: asked.count("refuses") > 3)  # another round was asked
        assert not started and fed.fleet.states[0] is EngineState.STALE
        fed.fleet.mark_current(hanging)
        await fed.until(lambda: bool(started))
        assert hanging not in fed.fleet.members and len(fed.fleet.serving) == 2
        watch.cancel()

    engines = [Hangs(lambda prompt, seed: "yes"), Refuses(lambda prompt, seed: "yes"), answering()]
    feed(tmp_path / "log", work, engines, start=another)
    said = "rollout worker 0 has given no sign of life for 0.05 s (rollout.engine.silence_deadline_s); starting another"
    assert said in capsys.readouterr().out
