"""A node is about to be taken away: its engines get nothing new, and finish or hand back what they have."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raylign.actors import drain_notice
from raylign.actors.drain_notice import heed_drains
from raylign.rollout.engine.fake_engine import FakeEngine
from tests.actors.feeding import Fed, answering, feed


@pytest.mark.parametrize(
    ("left_s", "token_s", "num_reissued"),
    [(3600.0, 0.02, 0), (math.inf, 0.02, 0), (5.0, 60.0, 6)],
    ids=["there is time", "nobody said when", "there is none"],
)
def test_nothing_new_is_admitted_and_every_prompt_is_trained_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left_s: float, token_s: float, num_reissued: int
) -> None:
    monkeypatch.setattr(drain_notice, "LOOK_EVERY_S", 0.01)
    started: list[FakeEngine] = []
    drained: dict[str, float] = {}

    async def another(number: int) -> FakeEngine:
        started.append(answering())
        return started[-1]

    async def draining() -> dict[str, float]:
        return drained

    async def work(fed: Fed) -> None:
        for number, engine in enumerate(fed.fleet.engines):
            engine.handle._target.node = on(f"node {number}")
        watch = asyncio.create_task(heed_drains(fed.fleet, draining))
        await fed.until(lambda: len(fed.feeder.running.on(fed.fleet.engines[0])) == 6)
        drained["node 0"] = left_s
        await fed.until(lambda: len(fed.fleet.serving) == 1)
        first = fed.fleet.serving[0]
        await fed.until(lambda: len(started) == 1)
        assert fed.feeder.counts.reissued == num_reissued
        drained.clear()
        for step in range(2):
            await fed.train(4, step)
            fed.fleet.weights_published(step + 1)
        assert len(set(fed.ordinals)) == 8 and first.number == 1
        watch.cancel()

    feed(tmp_path / "log", work, [answering(token_s=token_s), answering(token_s=0.02)], start=another)


def on(node: str) -> Callable[[], Any]:
    async def answer() -> str:
        return node

    return answer


def test_a_head_that_does_not_answer_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(drain_notice, "LOOK_EVERY_S", 0.0)
    asked: list[int] = []

    async def draining() -> dict[str, float]:
        asked.append(1)
        raise RuntimeError("the GCS is away")

    async def work(fed: Fed) -> None:
        watch = asyncio.create_task(heed_drains(fed.fleet, draining))
        await fed.until(lambda: len(asked) >= 3)
        assert len(fed.fleet.serving) == 1
        watch.cancel()

    feed(tmp_path / "log", work, [answering()])
    assert "Ray does not say which nodes are drained: the GCS is away" in capsys.readouterr().out
