"""The learner goes back to a checkpoint: engines give up what they do and get the weights of then, the log serves again
what was not committed. Engines are scripted, all else is real."""

from __future__ import annotations

import asyncio
from pathlib import Path

import torch

from raylign.actors.feeder import RolloutFeeder
from raylign.actors.handles import LocalHandle
from raylign.actors.weights.config import WeightsConfig
from raylign.actors.weights.publisher import WeightPublisher
from raylign.rollout.engine.fake_engine import FakeEngine
from raylign.rollout.experience.types import START, Opened
from raylign.rollout.staleness import StalenessBound
from tests.actors.feeding import SAMPLING, Fed, answering, feed, prompt
from tests.actors.weights.fake_sides import ALearner, a_model


def feeder_of(fed: Fed, opened: Opened) -> RolloutFeeder:
    """Another one, from the beginning."""
    return RolloutFeeder(
        fed.pool,
        LocalHandle(fed.host),
        prompt,
        SAMPLING,
        StalenessBound(2, 4),
        step=0,
        num_steps=100,
        missing=opened.missing_ordinals,
        next_ordinal=opened.next_ordinal,
        ordered=False,
        aborts_stale=False,
    )


def test_everything_is_as_it_was_then_and_no_group_comes_twice(tmp_path: Path) -> None:
    engines = [answering(token_s=0.005), answering(token_s=0.005)]

    async def work(fed: Fed) -> None:
        publisher = WeightPublisher(fed.fleet, ALearner(a_model(5), tmp_path), WeightsConfig())
        for step in range(3):
            await fed.train(4, step)
            await publisher.publish(step + 1)
        assert all(engine.version == 3 for engine in engines)
        trained = fed.ordinals[:]
        await fed.feeder.stop()
        await publisher.close()

        fed.read.clear()
        await fed.pool.forget()
        assert not fed.fleet.serving
        opened = await fed.host.start(START)
        publisher = WeightPublisher(fed.fleet, ALearner(a_model(0), tmp_path), WeightsConfig(), version=0)
        await publisher.catch_up()
        assert [engine.version for engine in engines] == [0, 0] and len(fed.fleet.serving) == 2
        assert all(torch.equal(engine.weights[name], part) for engine in engines for name, part in a_model(0).items())
        fed.feeder = feeder_of(fed, opened)
        await fed.feeder.start()
        try:
            for step in range(8):
                await fed.train(4, step)
                await publisher.publish(step + 1)
        finally:
            await fed.feeder.stop()
            await publisher.close()
        assert fed.ordinals[:12] == trained  # the log still had them
        assert len(set(fed.ordinals)) == 32 and max(fed.ordinals) < 44  # those under way may overtake one another
        assert (await fed.host.state())[0].num_refused == 0

    feed(tmp_path / "log", work, engines)


def test_an_engine_that_does_not_give_up_its_groups_is_replaced(tmp_path: Path) -> None:
    class Clings(FakeEngine):
        async def abort_weight_update(self, reason: str) -> None:
            raise RuntimeError("no")

    another = answering()

    async def start(number: int) -> FakeEngine:
        return another

    async def work(fed: Fed) -> None:
        await fed.feeder.stop()
        await fed.pool.forget()
        await fed.fleet.replacements()
        assert [engine.number for engine in fed.fleet.engines] == [0, 1]
        publisher = WeightPublisher(fed.fleet, ALearner(a_model(0), tmp_path), WeightsConfig(), version=0)
        await publisher.catch_up()
        assert len(fed.fleet.serving) == 2 and another.weights
        await publisher.close()

    feed(tmp_path / "log", work, [Clings(lambda prompt, seed: "yes"), answering()], start=start)


def test_what_was_handed_to_an_engine_before_reaches_nobody(tmp_path: Path) -> None:
    async def work(fed: Fed) -> None:
        await fed.until(lambda: len(fed.feeder.running) == 12)
        await fed.feeder.stop()
        await fed.pool.forget()
        await asyncio.sleep(0.2)  # a group takes 0.08
        assert not fed.host.appended

    feed(tmp_path / "log", work, [answering(token_s=0.02)])
