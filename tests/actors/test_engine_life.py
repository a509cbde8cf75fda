"""An engine dies in the middle of a run: fleet, feeder, publisher and pool together, with scripted engines."""

from __future__ import annotations

from pathlib import Path

import torch

from raylign.actors.fleet import EngineState
from raylign.actors.weights.config import WeightsConfig
from raylign.actors.weights.publisher import WeightPublisher
from raylign.rollout.engine.fake_engine import FakeEngine
from raylign.rollout.sample import Group
from tests.actors.feeding import Fed, SickEngine, answering, dies, feed
from tests.actors.weights.fake_sides import ALearner, a_model


def dies_in_the_second_step(group: Group, attempt: int) -> Group:
    return dies(group, attempt) if group.prompt.ordinal >= 4 else group


def test_a_dead_engine_comes_back_with_the_published_weights_and_takes_its_share_again(tmp_path: Path) -> None:
    started: list[FakeEngine] = []

    async def another(number: int) -> FakeEngine:
        started.append(answering(token_s=0.005))
        return started[-1]

    async def work(fed: Fed) -> None:
        publisher = WeightPublisher(fed.fleet, ALearner(a_model(0), tmp_path), WeightsConfig())
        await fed.train(4, step=0)
        await publisher.publish(1)
        await fed.until(lambda: len(started) == 1 and fed.fleet.states[0] is EngineState.CURRENT)
        assert all(torch.equal(started[0].weights[name], tensor) for name, tensor in a_model(0).items())
        assert started[0].version == 1
        await fed.train(4, step=1)
        await publisher.publish(2)
        await fed.until(lambda: fed.engines_at_work == {0, 1})
        await fed.train(4, step=2)
        await publisher.publish(3)
        await fed.train(4, step=3)
        assert sorted(fed.ordinals) == list(range(16)) and len(started) == 1
        assert started[0].version == 3
        await publisher.close()

    engines = [SickEngine(dies_in_the_second_step), answering(token_s=0.005)]
    feed(tmp_path / "log", work, engines, max_staleness=0, num_steps=4, start=another)


def test_an_engine_that_cannot_be_updated_is_replaced_and_its_groups_are_generated_by_the_new_one(
    tmp_path: Path,
) -> None:
    class Refuses(FakeEngine):
        async def check_weights(self, buckets: object) -> None:
            raise RuntimeError("no")

    async def another(number: int) -> FakeEngine:
        return answering()

    async def work(fed: Fed) -> None:
        publisher = WeightPublisher(fed.fleet, ALearner(a_model(0), tmp_path), WeightsConfig())
        await fed.quiet()
        assert fed.engines_at_work == {0}
        metrics = await publisher.publish(1)
        assert metrics["weights/replaced_engines"] == 1
        await fed.lease(8, step=0)
        assert {span.version for group in fed.read for each in group.completions for span in each.version_spans} == {1}
        await publisher.close()

    slow_and_stubborn = Refuses(lambda prompt, seed: "yes", token_s=6000)
    feed(tmp_path / "log", work, [slow_and_stubborn], max_staleness=1, start=another)
