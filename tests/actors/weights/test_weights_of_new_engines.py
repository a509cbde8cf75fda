"""Engines that join, fail or are replaced while weights travel: stale until they hold what the others do."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.exceptions import ActorDiedError

from raylign.actors.fleet import EngineState, Fleet
from raylign.actors.handles import LocalHandle
from raylign.actors.rollout_errors import RolloutError
from raylign.actors.weights.config import WeightsConfig
from raylign.actors.weights.publisher import WeightPublisher
from raylign.actors.weights.update import Phase
from raylign.rollout.engine.base import EngineDiedError
from raylign.rollout.sampling import SamplingConfig
from raylign.rollout.weights.buckets import BucketInfo
from tests.actors.weights.fake_sides import PROMPT, Recorded, Replacing, a_model, run, set_up, until
from tests.patience import HANGS_S


async def set_up_replacing(tmp_path: Path, num_engines: int) -> Any:
    engines, learner, publisher = await set_up(tmp_path, num_engines)
    replacing = Replacing()
    fleet = Fleet([LocalHandle(engine) for engine in engines], start=replacing)
    publisher = WeightPublisher(fleet, learner, WeightsConfig(deadline_s=HANGS_S))
    return engines, learner, publisher, replacing


async def lose(publisher: WeightPublisher, number: int, replacing: Replacing) -> Recorded:
    """The engine dies in the middle of generating; gives the one in its place, once it is up."""
    (engine,) = (engine for engine in publisher.fleet.engines if engine.number == number)
    publisher.fleet.mark_lost(engine, "it died")
    await publisher.fleet.replacements()
    return replacing.made[number]


def test_a_new_engine_is_stale_until_its_digest_matches(tmp_path: Path) -> None:
    async def test() -> None:
        engines, learner, publisher, replacing = await set_up_replacing(tmp_path, 2)
        await publisher.publish(1)
        learner.weights = a_model(1)  # the learner has gone on: what it exported has not
        await publisher.before_learning()
        late = await lose(publisher, 1, replacing)
        assert set(publisher.fleet.states.values()) == {EngineState.CURRENT, EngineState.STALE}
        await until(lambda: publisher.fleet.states[1] is EngineState.CURRENT)
        assert all(torch.equal(late.weights[name], tensor) for name, tensor in a_model(0).items())
        assert late.version == 1
        assert engines[0].verbs.count("pause") == 1  # the others were left alone

    run(test())


def test_after_a_restart_a_new_engine_must_match_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def test() -> None:
        engines, learner, publisher, replacing = await set_up_replacing(tmp_path, 3)  # nothing was exported since
        for engine in engines:
            engine.weights = a_model(0)
        learner.weights = a_model(1)

        def put_right(buckets: list[BucketInfo]) -> None:  # the next export is of other weights
            learner.weights = a_model(0)

        learner.spoil = put_right
        await lose(publisher, 2, replacing)
        await until(lambda: len(publisher.fleet.serving) == 3)

    run(test())
    said = capsys.readouterr().out
    assert said.count("starting another") == 2  # the one that died, and the one that was sent the wrong weights
    assert "engines were started, but weight update to version 0 failed on engine 2 in verify: its weights have" in said


def test_a_new_engine_is_never_sent_the_weights_of_a_learner_that_has_moved_on(tmp_path: Path) -> None:
    async def test() -> None:
        engines, learner, publisher, replacing = await set_up_replacing(tmp_path, 2)
        for engine in engines:
            engine.weights = a_model(0)
        await publisher.before_learning()  # in the middle of its first step: nothing was exported yet
        learner.weights = a_model(1)
        late = await lose(publisher, 1, replacing)
        await publisher.catch_up()
        assert set(late.verbs) == {"weight_checksum"} and len(publisher.fleet.serving) == 1
        await publisher.publish(1)
        assert late.version == 1 and len(publisher.fleet.serving) == 2

    run(test())


def test_a_new_engine_serves_in_the_first_step_if_it_holds_what_the_run_was_started_from(tmp_path: Path) -> None:
    async def test() -> None:
        engines, learner, publisher, replacing = await set_up_replacing(tmp_path, 2)
        await publisher.before_learning()
        learner.weights = a_model(1)
        late = await lose(publisher, 1, replacing)  # made as the others were
        await until(lambda: len(publisher.fleet.serving) == 2)
        assert set(late.verbs) == {"weight_checksum"} and engines[0].verbs == ["weight_checksum"]

    run(test())


def test_a_new_engine_waits_for_the_delivery_under_way(tmp_path: Path) -> None:
    async def test() -> None:
        engines, _, publisher, replacing = await set_up_replacing(tmp_path, 2)
        await publisher.publish(1)
        held, verbs_while_held = asyncio.Event(), []
        load = engines[0].load_weights

        async def load_later(buckets: Any) -> Any:
            await held.wait()
            return await load(buckets)

        engines[0].load_weights = load_later  # type: ignore[method-assign]
        delivery = asyncio.create_task(publisher.publish(2))
        await until(lambda: publisher.phase is Phase.TRANSFER)
        late = await lose(publisher, 1, replacing)
        for _ in range(20):
            await asyncio.sleep(0)
            verbs_while_held += late.verbs
        assert verbs_while_held == [] and len(publisher.fleet.serving) == 0
        held.set()
        await delivery
        await until(lambda: publisher.fleet.states[1] is EngineState.CURRENT)
        assert late.version == 2

    run(test())


def test_an_engine_that_fails_twice_is_replaced_while_the_others_go_on(tmp_path: Path) -> None:
    async def test() -> None:
        engines, learner, publisher, replacing = await set_up_replacing(tmp_path, 2)
        replacing.may_start.clear()
        engines[1].fail["load_weights"] = 2
        metrics = await publisher.publish(1)
        assert metrics["weights/replaced_engines"] == 1 and publisher.version == 1
        assert not (await engines[0].generate(PROMPT, SamplingConfig(), 0)).failures and engines[0].version == 1
        assert publisher.fleet.states == {0: EngineState.CURRENT, 1: EngineState.STARTING}
        for tensor in learner.weights.values():
            tensor.add_(1)  # the learner trains on; the new engine gets version 1 all the same
        replacing.may_start.set()
        await until(lambda: publisher.fleet.states[1] is EngineState.CURRENT)
        assert replacing.made[1].version == 1 and replacing.made[1].verbs[-1] == "commit_weights"
        assert all(torch.equal(replacing.made[1].weights[name], tensor) for name, tensor in a_model(0).items())
        await publisher.publish(2)
        assert replacing.made[1].version == 2 and engines[0].version == 2
        assert engines[1].verbs.count("load_weights") == 2  # the old one was never asked again

    run(test())


@pytest.mark.parametrize("error", [EngineDiedError("killed by signal 9"), ActorDiedError()])
def test_a_dead_engine_is_replaced_at_once(tmp_path: Path, error: Exception) -> None:
    async def test() -> None:
        engines, _, publisher, replacing = await set_up_replacing(tmp_path, 2)
        engines[0].fail["pause"], engines[0].error = 9, error
        await publisher.publish(1)
        assert engines[0].verbs == ["check_weights", "pause"]
        await until(lambda: publisher.fleet.states[0] is EngineState.CURRENT)
        assert replacing.made[0].version == 1

    run(test())


def test_a_new_engine_waits_for_the_next_delivery_where_newer_weights_were_exported(tmp_path: Path) -> None:
    async def test() -> None:
        engines, _, publisher, replacing = await set_up_replacing(tmp_path, 2)
        replacing.may_start.clear()
        engines[0].fail["pause"], engines[0].error = 9, EngineDiedError("killed by signal 9")
        await publisher.publish(1)
        exported = await publisher.export(2)
        replacing.may_start.set()
        await until(lambda: 0 in replacing.made)
        await asyncio.sleep(0.05)
        assert EngineState.STALE in publisher.fleet.states.values() and replacing.made[0].verbs == []
        await publisher.deliver(exported)
        assert [replacing.made[0].version, publisher.fleet.states[0]] == [2, EngineState.CURRENT]

    run(test())


def test_when_all_engines_died_the_delivery_waits_for_new_ones(tmp_path: Path) -> None:
    async def test() -> None:
        engines, _, publisher, replacing = await set_up_replacing(tmp_path, 2)
        for engine in engines:
            engine.fail["load_weights"], engine.error = 9, EngineDiedError("out of memory")
        metrics = await publisher.publish(1)
        assert metrics["weights/replaced_engines"] == 2
        assert [replacing.made[number].version for number in (0, 1)] == [1, 1]
        for number in (0, 1):
            replacing.made[number].fail["check_weights"], replacing.made[number].error = 9, EngineDiedError("again")
        replacing.fail = True
        words = "rollout worker 0 did not start: RuntimeError: no place left; it was replaced 3 times already"
        for _ in range(2):
            with pytest.raises(RolloutError, match=words):
                await publisher.publish(2)

    run(test())


def test_a_delivery_that_finds_all_engines_just_starting_waits_for_them(tmp_path: Path) -> None:
    """The only engine died while the learner trained on batches that were there already."""

    async def test() -> None:
        _, learner, publisher, replacing = await set_up_replacing(tmp_path, 1)
        await publisher.publish(1)
        replacing.may_start.clear()
        publisher.fleet.mark_lost(publisher.fleet.engines[0], "it died")
        learner.weights = a_model(1)
        publishing = asyncio.create_task(publisher.publish(2))
        await until(lambda: publisher._exported is not None and publisher._exported.version == 2)
        replacing.may_start.set()
        await publishing
        assert replacing.made[0].version == 2 and len(publisher.fleet.serving) == 1
        assert all(torch.equal(replacing.made[0].weights[name], tensor) for name, tensor in a_model(1).items())

    run(test())
