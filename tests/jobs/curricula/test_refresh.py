"""When answers are asked for, when they are used, and what a checkpoint keeps of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from raylign.jobs.curricula.refresh import Refresh, fixed_rows, refresh_is_due
from raylign.learners.algorithms.facts import RefreshPlan
from raylign.rollout.sample import Completion, Failure, FloatArray, Group, Prompt, StopReason, VersionSpan

WEIGHTS = np.array([1.251643, 0.621548, 0.759160, 2.063611, 0.279279, 1.024759], np.float32)


def completion(text: str, version: int, stop: StopReason = "stop") -> Completion:
    return Completion(np.array([3, 1], np.int32), np.zeros(2, np.float32), (VersionSpan(version, 0, 2),), stop, text)


class Engines:
    """Answer at once, or when `gate` opens. The answer's text is the version of the weights."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.version = 0
        self.asked: list[list[int]] = []
        self.weights = WEIGHTS
        self.texts: list[str] | None = None
        self.failing: set[int] = set()

    async def send_weights(self, version: int) -> Callable[[], Awaitable[None]]:
        async def deliver() -> None:
            self.version = version

        return deliver

    async def answer(self, rows: Sequence[int], refresh: int) -> list[Group]:
        self.asked.append(list(rows))
        await self.gate.wait()
        return [self._group(row) for row in rows]

    def _group(self, row: int) -> Group:
        prompt = Prompt(str(row), row, "?", np.ones(2, np.int32))
        if row in self.failing:
            return Group(prompt, (), failures=(Failure("engine", "engine", "gone"),))
        texts = self.texts or [f"v{self.version}"]
        return Group(prompt, tuple(completion(text, self.version) for text in texts))

    async def row_weights(self) -> FloatArray:
        return self.weights


def refresh_of(waits: bool = False, dynamic: bool = True, share: float = 0.5, every: int = 2) -> Refresh:
    return Refresh(RefreshPlan(dynamic, share, every, warmup_steps=0), 6, 0, waits_for_answers=waits)


def texts(refresh: Refresh) -> dict[int, list[str]]:
    found = {row: refresh.answers(row) for row in range(6)}
    return {row: [answer.text for answer in answers] for row, answers in found.items() if answers is not None}


def test_fixed_rows_are_drawn_once_from_the_seed() -> None:
    assert len(fixed_rows(100, 0.1, 3)) == 10
    assert fixed_rows(100, 0.1, 3) == sorted(set(fixed_rows(100, 0.1, 3))) != fixed_rows(100, 0.1, 4)
    assert len(fixed_rows(10, 0.7, 0)) == 7  # 6.999… in binary


def test_fixed_rows_are_answered_before_the_first_step() -> None:
    async def run() -> None:
        engines = Engines()
        refresh = refresh_of(dynamic=False)
        metrics = await refresh.begin(engines)
        assert metrics["refresh/rows"] == 3
        assert texts(refresh) == {row: ["v0"] for row in fixed_rows(6, 0.5, 0)}

    asyncio.run(run())


def test_the_batch_right_after_the_answers_uses_them() -> None:  # acceptance 10
    async def run() -> None:
        engines = Engines()
        engines.gate.clear()
        refresh = refresh_of()
        assert await refresh.at_step(1, engines) == {}  # 1 − (−1) = 2 steps: due
        await asyncio.sleep(0.01)
        assert engines.asked == [[1, 2, 4]]
        for step in (2, 3, 4):  # training goes on with the rows' own responses; no second refresh on top
            assert await refresh.at_step(step, engines) == {}
            assert texts(refresh) == {}
        engines.gate.set()
        await refresh.settle()
        metrics = await refresh.at_step(5, engines)
        assert metrics["refresh/asked_at_step"] == 1
        assert texts(refresh) == {1: ["v0"], 2: ["v0"], 4: ["v0"]}

    asyncio.run(run())


def test_a_synchronous_run_waits_for_the_answers() -> None:
    async def run() -> None:
        engines = Engines()
        refresh = refresh_of(waits=True, share=0.34)
        used = []
        for step in range(1, 6):
            await refresh.at_step(step, engines)
            used.append(texts(refresh))
        assert used == [{1: ["v0"], 4: ["v0"]}] * 2 + [{1: ["v2"], 4: ["v2"]}] * 2 + [{1: ["v4"], 4: ["v4"]}]

    asyncio.run(run())


def test_rows_that_regain_weight_get_their_response_back() -> None:
    async def run() -> None:
        engines = Engines()
        refresh = refresh_of(waits=True, share=0.34)
        await refresh.at_step(1, engines)
        engines.weights = WEIGHTS[::-1].copy()
        await refresh.at_step(3, engines)
        assert set(texts(refresh)) == {1, 4}  # mirrored: 4 and 1 are the smallest again
        engines.weights = np.arange(6, dtype=np.float32)
        await refresh.at_step(5, engines)
        assert set(texts(refresh)) == {0, 1}

    asyncio.run(run())


def test_empty_answers_are_left_out_and_counted() -> None:
    async def run() -> None:
        engines = Engines()
        engines.texts = ["good", "  ", "also good", ""]
        refresh = refresh_of(waits=True)
        metrics = await refresh.at_step(1, engines)
        assert metrics["refresh/unusable_share"] == 0.5
        assert texts(refresh)[1] == ["good", "also good"]

    asyncio.run(run())


def test_a_row_that_no_engine_answers_keeps_what_it_had() -> None:
    async def run() -> None:
        engines = Engines()
        refresh = refresh_of(waits=True)
        await refresh.at_step(1, engines)
        engines.failing = {2}
        metrics = await refresh.at_step(3, engines)
        assert metrics["refresh/failed_rows"] == 1
        assert texts(refresh) == {1: ["v2"], 2: ["v0"], 4: ["v2"]}

    asyncio.run(run())


def test_a_failed_refresh_ends_the_run_with_its_own_words() -> None:
    async def run() -> None:
        engines = Engines()

        async def broken(rows: Sequence[int], refresh: int) -> list[Group]:
            raise RuntimeError("engine 0 is gone")

        engines.answer = broken  # type: ignore[method-assign]
        refresh = refresh_of()
        await refresh.at_step(1, engines)
        await refresh.settle()
        with pytest.raises(RuntimeError, match="engine 0 is gone"):
            await refresh.at_step(2, engines)

    asyncio.run(run())


def test_a_checkpoint_keeps_the_answers_and_asks_again_for_those_under_way(tmp_path: Path) -> None:
    async def run() -> None:
        engines = Engines()
        refresh = refresh_of()
        await refresh.at_step(1, engines)
        await refresh.settle()
        await refresh.at_step(2, engines)
        engines.gate.clear()
        await refresh.at_step(3, engines)  # under way when the checkpoint is written
        refresh.save(tmp_path)
        await refresh.stop()
        engines.gate.set()
        resumed = refresh_of(waits=True)
        resumed.load(tmp_path)
        assert texts(resumed) == {1: ["v0"], 2: ["v0"], 4: ["v0"]}
        [answer] = resumed.answers(1) or ()
        assert answer.version_spans == (VersionSpan(0, 0, 2),)
        np.testing.assert_array_equal(answer.logps, [0, 0])
        assert await resumed.at_step(4, engines)
        assert texts(resumed)[1] == ["v3"]

    asyncio.run(run())


def test_a_checkpoint_without_answers_loads(tmp_path: Path) -> None:
    async def run() -> None:
        refresh_of().save(tmp_path)
        resumed = refresh_of()
        resumed.load(tmp_path)
        assert texts(resumed) == {}

    asyncio.run(run())


@pytest.mark.parametrize(
    ("every", "warmup", "last_step", "expected"),
    [(4, 0, 0, [4, 8, 12]), (4, 6, 0, [6, 10]), (500, 5000, 0, [5000, 5500, 6000, 6500, 7000]), (4, 0, -1, [3, 7, 11])],
)
def test_steps_of_refreshes(every: int, warmup: int, last_step: int, expected: list[int]) -> None:  # 9
    found = []
    for step in range(1, 7001 if warmup > 100 else 13):
        if refresh_is_due(step, last_step, RefreshPlan(False, 0.5, every, warmup)):
            found.append(step)
            last_step = step
    assert found == (expected if warmup != 6 else [6, 10])
