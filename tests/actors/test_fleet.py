"""The fleet: who may get work, who is replaced and how often, and who is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from raylign.actors.fleet import MAX_REPLACEMENTS, SETTLED_UPDATES, Engine, EngineState, Fleet, FleetObserver
from raylign.actors.handles import KilledError, LocalHandle, kill
from raylign.actors.rollout_errors import RolloutError
from tests.patience import HANGS_S

STARTING, STALE, CURRENT, DEAD = EngineState


class Worker:
    """Notes what it was asked."""

    def __init__(self) -> None:
        self.verbs: list[str] = []
        self.stop_takes_s = 0.0

    async def sleep(self) -> None:
        self.verbs.append("sleep")

    async def stop(self) -> None:
        self.verbs.append("stop")
        await asyncio.sleep(self.stop_takes_s)


class Starts:
    """Starts workers, when it is let; fails so often as told."""

    def __init__(self) -> None:
        self.let = asyncio.Event()
        self.let.set()
        self.numbers: list[int] = []
        self.num_failures = 0

    async def __call__(self, number: int) -> LocalHandle:
        self.numbers.append(number)
        await self.let.wait()
        if self.num_failures:
            self.num_failures -= 1
            raise RuntimeError("no place left")
        return LocalHandle(Worker())


class Notes(FleetObserver):
    """Notes what it is told, with the engine's number."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []
        self.failures: list[RolloutError] = []
        self.refuses_new_engines = 0

    def engine_lost(self, engine: Engine) -> None:
        self.told.append(("lost", engine.number))

    async def engine_started(self, engine: Engine) -> None:
        if self.refuses_new_engines:
            self.refuses_new_engines -= 1
            raise RuntimeError("it cannot be connected")
        self.told.append(("started", engine.number))

    def engine_ready(self, engine: Engine) -> None:
        self.told.append(("ready", engine.number))

    def weights_arrived(self, version: int) -> None:
        self.told.append(("version", version))

    def fleet_failed(self, error: RolloutError) -> None:
        self.failures.append(error)


def a_fleet(num_engines: int, starts: Starts | None = None, current: bool = True) -> tuple[Fleet, Notes]:
    fleet = Fleet([LocalHandle(Worker()) for _ in range(num_engines)], start=starts, current=current)
    notes = Notes()
    fleet.observe(notes)
    return fleet, notes


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def within() -> None:
        await asyncio.wait_for(test(), HANGS_S)

    asyncio.run(within())


def test_only_engines_that_hold_the_published_weights_get_work() -> None:
    fleet, notes = a_fleet(3)
    first, second, third = fleet.engines
    assert fleet.serving == [first, second, third]
    fleet.mark_stale(second)
    assert fleet.serving == [first, third] and fleet.engines == [first, second, third]
    assert fleet.states == {0: CURRENT, 1: STALE, 2: CURRENT}
    fleet.mark_current(second)
    fleet.mark_current(second)
    assert fleet.serving == [first, second, third]
    assert notes.told == [("ready", 1)]  # once
    assert a_fleet(2, current=False)[0].states == {0: STALE, 1: STALE}


def test_an_engine_that_died_is_replaced_and_gets_work_again_once_it_is_current() -> None:
    async def test() -> None:
        starts = Starts()
        fleet, notes = a_fleet(2, starts)
        dead, other = fleet.engines
        starts.let.clear()
        fleet.mark_lost(dead, "it died")
        assert fleet.states == {0: STARTING, 1: CURRENT} and fleet.engines == fleet.serving == [other]
        with pytest.raises(KilledError, match="`sleep` was called on an actor that was killed"):
            await dead.handle.sleep.remote()
        replaced = asyncio.create_task(fleet.replacements())
        await asyncio.sleep(0)
        assert not replaced.done()
        starts.let.set()
        await replaced
        new = fleet.engines[0]
        assert new is not dead and new.number == 0 and fleet.engines == [new, other]
        assert fleet.states == {0: STALE, 1: CURRENT} and fleet.serving == [other]
        await new.handle.sleep.remote()
        fleet.mark_current(new)
        assert fleet.serving == [new, other]
        assert notes.told == [("lost", 0), ("started", 0), ("ready", 0)] and not notes.failures
        fleet.raise_if_failed()

    run(test)


def test_the_second_to_find_an_engine_dead_starts_no_other_and_cannot_revive_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def test() -> None:
        starts = Starts()
        fleet, notes = a_fleet(1, starts)
        (dead,) = fleet.engines
        fleet.mark_lost(dead, "it died")
        fleet.mark_lost(dead, "it did not answer")
        await fleet.replacements()
        fleet.mark_lost(dead, "it did not answer at all")
        fleet.mark_current(dead)
        fleet.mark_stale(dead)
        assert dead.state is DEAD and starts.numbers == [0]
        assert notes.told == [("lost", 0), ("started", 0)]

    run(test)
    assert capsys.readouterr().out == "it died; starting another\n"


def test_the_fourth_death_of_one_engine_ends_the_run_with_its_last_words() -> None:
    async def test() -> None:
        starts = Starts()
        fleet, notes = a_fleet(2, starts)
        for death in range(MAX_REPLACEMENTS):
            for number in (1, 0):  # each has its own count
                fleet.mark_lost(fleet.engines[number], f"death {death}")
                await fleet.replacements()
        assert not notes.failures and starts.numbers == [1, 0, 1, 0, 1, 0]
        fleet.mark_lost(fleet.engines[0], "EngineCore ended with code -9")
        words = "EngineCore ended with code -9; it was replaced 3 times already"
        assert [str(error) for error in notes.failures] == [words]
        assert fleet.states == {0: DEAD, 1: STALE} and starts.numbers == [1, 0, 1, 0, 1, 0]
        with pytest.raises(RolloutError, match=words):
            fleet.raise_if_failed()
        with pytest.raises(RolloutError, match=words):
            await fleet.until_serving(HANGS_S, "a.key")
        fleet.mark_lost(fleet.engines[0], "death 4")
        assert fleet.failure is notes.failures[0]  # the first stays what ended the run

    run(test)


def test_an_engine_that_served_through_some_updates_may_die_as_often_again() -> None:
    async def test() -> None:
        fleet, notes = a_fleet(1, Starts())
        for version in range(1, 6 * SETTLED_UPDATES):
            if version % SETTLED_UPDATES == 0:
                fleet.mark_lost(fleet.engines[0], "it died")
                await fleet.replacements()
            fleet.mark_current(fleet.engines[0])
            fleet.weights_published(version)
        assert not notes.failures and fleet.serving
        for _ in range(MAX_REPLACEMENTS + 1):
            fleet.mark_lost(fleet.engines[0], "it died")
            await fleet.replacements()
        assert len(notes.failures) == 1

    run(test)


def test_a_start_that_fails_counts_as_a_death(capsys: pytest.CaptureFixture[str]) -> None:
    async def test() -> None:
        starts = Starts()
        fleet, notes = a_fleet(1, starts)
        starts.num_failures = 2
        fleet.mark_lost(fleet.engines[0], "it died")
        await fleet.replacements()
        assert fleet.states == {0: STALE} and starts.numbers == [0, 0, 0] and not notes.failures
        starts.num_failures = 1
        fleet.mark_lost(fleet.engines[0], "it died again")
        assert str(notes.failures[0]) == "it died again; it was replaced 3 times already"

    run(test)
    words = "rollout worker 0 did not start: RuntimeError: no place left; starting another"
    assert capsys.readouterr().out.splitlines() == ["it died; starting another", words, words]


def test_a_new_engine_that_an_observer_cannot_use_is_replaced_too() -> None:
    async def test() -> None:
        starts = Starts()
        fleet, notes = a_fleet(1, starts)
        notes.refuses_new_engines = 1
        fleet.mark_lost(fleet.engines[0], "it died")
        await fleet.replacements()
        assert starts.numbers == [0, 0] and fleet.states == {0: STALE}
        assert notes.told == [("lost", 0), ("lost", 0), ("started", 0)]

    run(test)


def test_where_nobody_can_start_another_the_first_death_ends_the_run() -> None:
    async def test() -> None:
        fleet, notes = a_fleet(1)
        assert not fleet.can_replace and a_fleet(1, Starts())[0].can_replace
        fleet.mark_lost(fleet.engines[0], "it died")
        assert [str(error) for error in notes.failures] == ["it died"] and fleet.states == {0: DEAD}

    run(test)


def test_work_waits_for_an_engine_that_serves() -> None:
    async def test() -> None:
        fleet, _ = a_fleet(2, current=False)
        waiting = [asyncio.create_task(fleet.until_serving(HANGS_S, "a.key")) for _ in range(2)]
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in waiting)
        fleet.mark_current(fleet.engines[1])
        assert [await task for task in waiting] == [[fleet.engines[1]]] * 2

    run(test)


def test_work_that_no_engine_can_do_says_why() -> None:
    async def test() -> None:
        fleet, _ = a_fleet(2, current=False)
        words = (
            "no answer within 0.02 s from an engine that holds the published weights: engine 0 is stale, engine 1 is "
            "stale (a.key)"
        )
        with pytest.raises(RolloutError) as caught:
            await fleet.until_serving(0.02, "a.key")
        assert str(caught.value) == words

    run(test)


def test_an_end_of_the_fleet_is_heard_by_those_who_wait_for_it() -> None:
    async def test() -> None:
        fleet, _ = a_fleet(1, current=False)
        waiting = asyncio.create_task(fleet.until_serving(HANGS_S, "a.key"))
        await asyncio.sleep(0.01)
        fleet.mark_lost(fleet.engines[0], "it died")
        with pytest.raises(RolloutError, match="it died"):
            await waiting

    run(test)


def test_observers_are_told_of_versions_until_they_leave() -> None:
    fleet, notes = a_fleet(1)
    others = Notes()
    fleet.observe(others)
    fleet.weights_published(3)
    fleet.unobserve(notes)
    fleet.unobserve(notes)
    fleet.weights_published(4)
    assert notes.told == [("version", 3)] and others.told == [("version", 3), ("version", 4)]


def test_an_observer_that_only_wants_some_notices_need_not_know_the_others() -> None:
    async def test() -> None:
        fleet, _ = a_fleet(2, Starts())
        fleet.observe(FleetObserver())
        fleet.mark_lost(fleet.engines[0], "it died")
        await fleet.replacements()
        fleet.mark_current(fleet.engines[0])
        fleet.weights_published(1)
        assert fleet.states == {0: CURRENT, 1: CURRENT}

    run(test)


def test_a_verb_for_all_reaches_every_engine_that_can_be_asked() -> None:
    async def test() -> None:
        fleet, _ = a_fleet(3, Starts())
        workers = [engine.handle._target for engine in fleet.engines]
        fleet.mark_stale(fleet.engines[1])
        fleet.mark_lost(fleet.engines[2], "it died")
        await fleet.call_all("sleep", 60, "a.key")
        assert [worker.verbs for worker in workers] == [["sleep"], ["sleep"], []]
        workers[0].stop_takes_s = 6000
        with pytest.raises(RolloutError, match=r"no answer within 0.02 s from engines to stop \(a.key\)"):
            await fleet.call_all("stop", 0.02, "a.key")

    run(test)


def test_stopping_asks_every_engine_ends_those_that_do_not_answer_and_gives_up_starts() -> None:
    async def test() -> None:
        starts = Starts()
        fleet, notes = a_fleet(3, starts)
        starts.let.clear()
        fleet.mark_lost(fleet.engines[0], "it died")
        await asyncio.sleep(0)
        engines = fleet.engines
        engines[0].handle._target.stop_takes_s = 6000
        kill(engines[1].handle)  # of its own accord
        await fleet.stop(0.02)
        starts.let.set()
        await fleet.replacements()
        assert [engine.handle._target.verbs for engine in engines] == [["stop"], []]
        assert fleet.states == {0: STARTING, 1: DEAD, 2: DEAD}
        assert all(engine.handle.is_killed for engine in engines) and fleet.engines == []
        assert notes.told == [("lost", 0)] and not notes.failures

    run(test)
