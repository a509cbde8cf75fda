"""Engines join and leave while others work: no prompt is lost or repeated, and nobody waits for them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from raylign.actors.elastic_fleet import ElasticFleet
from raylign.actors.fleet import EngineState
from raylign.actors.handles import LocalHandle
from raylign.actors.mean_count import MeanCount
from raylign.actors.weights.config import WeightsConfig
from raylign.actors.weights.publisher import WeightPublisher
from raylign.rollout.engine.fake_engine import FakeEngine
from tests.actors.feeding import Fed, answering, feed
from tests.actors.test_fleet import Notes, Starts, Worker, run
from tests.actors.weights.fake_sides import ALearner, a_model, until
from tests.patience import HANGS_S

STARTING, STALE, CURRENT, DEAD = EngineState
GROUPS = 4
"""Of a step."""


class Loop:
    """Trains and publishes, as the train loop does."""

    def __init__(self, fed: Fed, folder: Path) -> None:
        self.fed, self.step = fed, 0
        self.learner = ALearner(a_model(0), folder)
        self.publisher = WeightPublisher(fed.fleet, self.learner, WeightsConfig(deadline_s=HANGS_S))

    async def steps(self, count: int) -> None:
        for _ in range(count):
            await self.publisher.before_learning()
            await self.fed.train(GROUPS, self.step)
            self.step += 1
            self.learner.weights = a_model(self.step)
            await self.publisher.publish(self.step)

    async def end(self) -> None:
        await self.publisher.close()


def test_one_engine_then_three_then_one_in_a_run(tmp_path: Path) -> None:
    joined: dict[int, FakeEngine] = {}

    async def another(number: int) -> FakeEngine:
        joined[number] = answering(token_s=0.002)
        return joined[number]

    async def work(fed: Fed) -> None:
        loop = Loop(fed, tmp_path)
        await loop.steps(2)
        fed.fleet.resize(3)
        await loop.steps(2)  # nobody waits for those that join
        assert await fed.fleet.settled() == []
        await fed.until(lambda: fed.engines_at_work == {0, 1, 2})
        assert {engine.version for engine in joined.values()} == {loop.step}
        await loop.steps(3)
        fed.fleet.resize(1)
        assert [engine.number for engine in fed.fleet.serving] == [0]
        await loop.steps(1)
        assert await fed.fleet.settled() == []
        assert fed.fleet.states == {0: CURRENT} and fed.engines_at_work <= {0}
        await loop.steps(2)
        await loop.end()
        counts = fed.feeder.take_counts()
        assert (counts.reissued, counts.aborted, counts.failed, counts.refused) == (0, 0, 0, 0)  # all ended where begun
        assert 1 < counts.num_engines < 3 and counts.was_resized
        assert sorted(fed.ordinals) == list(range(10 * GROUPS))
        logged = [group.prompt.ordinal for group in fed.host.appended]
        assert len(set(logged)) == len(logged)

    feed(tmp_path / "log", work, [answering(token_s=0.002)], groups_per_step=GROUPS, start=another)


def test_one_that_joins_serves_without_a_step_and_the_others_go_on(tmp_path: Path) -> None:
    """The version that is published is sent to it alone, and its digest must match."""
    paused: list[str] = []

    async def another(number: int) -> FakeEngine:
        return answering(token_s=0.002)

    async def work(fed: Fed) -> None:
        loop = Loop(fed, tmp_path)
        await loop.steps(1)
        first = fed.fleet.engines[0].handle._target._engine

        async def pause() -> None:
            paused.append("first")

        first.pause = pause
        fed.fleet.resize(2)
        assert await fed.fleet.settled() == []  # the learner does nothing meanwhile
        assert fed.fleet.states == {0: CURRENT, 1: CURRENT} and paused == []
        await loop.end()

    feed(tmp_path / "log", work, [answering(token_s=0.002)], groups_per_step=GROUPS, start=another)


def test_one_that_leaves_ends_when_its_last_group_is_in_the_log(tmp_path: Path) -> None:
    slow = answering("slow", token_s=6000)

    async def work(fed: Fed) -> None:
        await fed.until(lambda: fed.engines_at_work == {0, 1})
        held = fed.feeder.running.on(fed.fleet.engines[1])
        fed.fleet.resize(1)
        await fed.quiet()
        assert fed.fleet.states == {0: CURRENT, 1: CURRENT} and fed.feeder.running.on(fed.fleet.engines[1]) == held
        with_work = fed.fleet.engines[1]
        for ordinal in held:
            fed.feeder._finish(ordinal)  # as if the log had them
        assert with_work.state is DEAD
        await fed.fleet.settled()
        assert fed.fleet.states == {0: CURRENT} and slow._stopped

    feed(tmp_path, work, [answering("slow", token_s=6000), slow])


def test_one_that_dies_while_it_leaves_is_not_replaced_and_its_groups_go_to_the_others(tmp_path: Path) -> None:
    async def another(number: int) -> FakeEngine:
        raise AssertionError("nobody asked for it")

    async def work(fed: Fed) -> None:
        await fed.until(lambda: 1 in fed.engines_at_work)
        fed.fleet.resize(1)
        fed.fleet.mark_lost(fed.fleet.engines[1], "it was killed")
        assert fed.fleet.states == {0: CURRENT} and await fed.fleet.settled() == []
        await fed.lease(12, step=0)
        assert sorted(fed.ordinals) == list(range(12))
        assert fed.feeder.take_counts().reissued > 0

    feed(tmp_path, work, [answering(token_s=0.002), answering("slow", token_s=6000)], start=another)


def test_what_cannot_start_is_given_up_and_the_fleet_goes_on() -> None:
    async def test() -> None:
        starts = Starts()
        starts.num_failures = 1
        given_back: list[int] = []
        fleet = ElasticFleet([LocalHandle(Worker())], start=starts, give_back=given_back.append)
        notes = Notes()
        fleet.observe(notes)
        fleet.resize(2)
        assert await fleet.settled() == ["rollout worker 1 did not start: RuntimeError: no place left"]
        assert fleet.states == {0: CURRENT} and given_back == [1] and not notes.failures
        fleet.resize(2)  # asked again: the number is free
        await until(lambda: fleet.states[1] is STALE)
        fleet.mark_current(fleet.engines[1])
        assert await fleet.settled() == [] and starts.numbers == [1, 1]

    run(test)


def test_one_that_joins_and_is_not_wanted_any_more_is_not_waited_for() -> None:
    async def test() -> None:
        starts = Starts()
        starts.let.clear()
        given_back: list[int] = []
        fleet = ElasticFleet([LocalHandle(Worker())], start=starts, give_back=given_back.append)
        fleet.resize(3)
        assert fleet.states == {0: CURRENT, 1: STARTING, 2: STARTING}
        await asyncio.sleep(0)
        fleet.resize(1)
        assert await fleet.settled() == [] and fleet.states == {0: CURRENT} and given_back == [2, 1]

    run(test)


def test_one_that_is_about_to_leave_stays_before_another_joins() -> None:
    async def test() -> None:
        class Busy(Notes):
            def still_uses(self, engine: Any) -> bool:
                return True

        starts = Starts()
        fleet = ElasticFleet([LocalHandle(Worker()) for _ in range(3)], start=starts)
        notes = Busy()
        fleet.observe(notes)
        fleet.resize(1)
        assert [engine.number for engine in fleet.serving] == [0] and len(fleet.engines) == 3
        fleet.resize(2)
        assert [engine.number for engine in fleet.serving] == [0, 1] and notes.told == [("ready", 1)]
        assert starts.numbers == []

    run(test)


def test_an_evaluation_keeps_its_engines_to_the_end() -> None:
    async def test() -> None:
        fleet = ElasticFleet([LocalHandle(Worker()) for _ in range(2)], start=Starts())
        last = fleet.engines[1]
        last.num_batches = 1
        fleet.resize(1)
        assert last.state is CURRENT and last not in fleet.serving
        last.num_batches = 0
        fleet.let_go()
        await fleet.settled()
        assert fleet.states == {0: CURRENT}

    run(test)


@pytest.mark.parametrize("count", [0, -1])
def test_a_run_keeps_at_least_one_engine(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} engines: a run that generates needs at least 1"):
        ElasticFleet([LocalHandle(Worker())], start=Starts()).resize(count)


def test_the_mean_of_a_count_is_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    count = MeanCount(1)
    now = 3.0
    count.note(3)
    now = 4.0
    assert count.take() == pytest.approx((3 * 1 + 1 * 3) / 4) and count.has_changed
    now = 5.0
    assert count.take() == 3.0
