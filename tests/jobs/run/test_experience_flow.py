"""What the flow of experience tells the feeder, and what it does when no group can come any more."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from raylign.jobs.run.experience_flow import LiveFlow


class Feeder:
    """Notes what it is told."""

    def __init__(self, calls: list[str]) -> None:
        self._calls = calls
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def begin_step(self) -> None:
        self._calls.append("begin step")

    def fail(self, error: BaseException) -> None:
        self.failure.set_exception(error)


class Batches:
    """Gives a batch when it is there; `None`: never."""

    def __init__(self, calls: list[str], batch: str | None) -> None:
        self._calls, self._batch = calls, batch

    async def next(self, step: int) -> Any:
        self._calls.append(f"batch {step}")
        return self._batch or await asyncio.Event().wait()


def flow_of(feeder: Any, batches: Any) -> LiveFlow:
    return LiveFlow(None, feeder, batches, looks_ahead=False, num_steps=9)


def test_the_feeder_learns_that_a_step_begins_before_its_batch_is_waited_for() -> None:
    calls: list[str] = []

    async def test() -> Any:
        return await flow_of(Feeder(calls), Batches(calls, "a batch")).next(3)

    assert asyncio.run(test()) == "a batch"
    assert calls == ["begin step", "batch 3"]


def test_a_delivery_that_failed_ends_the_wait_for_a_batch() -> None:
    async def test() -> None:
        flow = flow_of(Feeder([]), Batches([], None))
        waiting = asyncio.create_task(flow.next(0))
        await asyncio.sleep(0)
        flow.fail(RuntimeError("no engine has the weights"))
        with pytest.raises(RuntimeError, match="no engine has the weights"):
            await waiting

    asyncio.run(test())
