"""Weight updates: the transaction with fake engines, phase by phase."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch

from raylign.actors.fleet import EngineState
from raylign.actors.weights.update import Phase, WeightUpdateError
from raylign.rollout.sampling import SamplingConfig
from tests.actors.weights.fake_sides import PROMPT, a_model, flip_a_bit, run, set_up


def test_all_engines_get_the_weights_the_version_and_go_on(tmp_path: Path) -> None:
    async def test() -> None:
        engines, learner, publisher = await set_up(tmp_path)
        metrics = await publisher.publish(1)
        for engine in engines:
            assert engine.version == 1
            assert all(torch.equal(engine.weights[name], tensor) for name, tensor in learner.weights.items())
            assert engine.verbs == ["check_weights", "pause", "load_weights", "commit_weights"]
        assert publisher.version == 1 and publisher.phase is Phase.IDLE
        assert publisher.last is not None and publisher.last.num_buckets == 3 and publisher.last.num_attempts == 1
        assert publisher.last.num_replaced == 0
        assert metrics["weights/version"] == 1
        assert 5 * 400 <= metrics["weights/bytes"] <= 5 * 448
        assert metrics["weights/pause_s"] >= publisher.last.load_s > 0
        assert metrics["weights/deliver_s"] >= metrics["weights/pause_s"] >= metrics["weights/load_s"]
        assert len(list(tmp_path.iterdir())) == 3  # an engine that joins later reads them too
        await publisher.close()
        assert not list(tmp_path.iterdir())

    run(test())


def test_the_learner_may_train_on_once_its_weights_are_exported(tmp_path: Path) -> None:
    async def test() -> None:
        engines, learner, publisher = await set_up(tmp_path)
        exported = await publisher.export(1)
        assert all(engine.verbs == [] for engine in engines)
        for tensor in learner.weights.values():
            tensor.add_(1)  # the next step
        await publisher.deliver(exported)
        for engine in engines:
            assert all(torch.equal(engine.weights[name], tensor) for name, tensor in a_model(0).items())

    run(test())


def test_exports_and_deliveries_in_a_wrong_order_are_refused(tmp_path: Path) -> None:
    async def test() -> None:
        _, _, publisher = await set_up(tmp_path)
        first = await publisher.export(1)
        second = await publisher.export(2)  # version 1 was never wanted
        with pytest.raises(RuntimeError, match="version 1 was delivered already, or another was exported since"):
            await publisher.deliver(first)
        delivery = asyncio.create_task(publisher.deliver(second))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one at a time"):
            await publisher.deliver(second)
        with pytest.raises(RuntimeError, match="export before or after it"):
            await publisher.export(3)
        await delivery
        with pytest.raises(RuntimeError, match="version 2 was delivered already"):
            await publisher.deliver(second)
        await publisher.publish(3)

    run(test())


def test_a_damaged_bucket_is_refused_and_the_whole_version_is_sent_again(tmp_path: Path) -> None:
    async def test() -> None:
        engines, learner, publisher = await set_up(tmp_path)
        exported = await publisher.export(1)
        flip_a_bit(exported.buckets[1])

        def mend(verb: str) -> None:
            if engines[0].verbs == ["check_weights", "check_weights"]:
                flip_a_bit(exported.buckets[1])

        engines[0].before = mend
        await publisher.deliver(exported)
        assert publisher.last is not None and publisher.last.num_attempts == 2
        for engine in engines:
            assert all(torch.equal(engine.weights[name], tensor) for name, tensor in learner.weights.items())
            assert engine.verbs == ["check_weights", "check_weights", "pause", "load_weights", "commit_weights"]

    run(test())


def test_damage_that_stays_ends_the_update_before_any_engine_is_touched(tmp_path: Path) -> None:
    async def test() -> None:
        engines, learner, publisher = await set_up(tmp_path)
        learner.spoil = lambda buckets: flip_a_bit(buckets[2])
        with pytest.raises(
            WeightUpdateError, match=r"version 1 failed on engine 0 in prepare, bucket 3: .*damaged"
        ) as caught:
            await publisher.publish(1)
        error = caught.value
        assert (error.side, error.phase, error.bucket, error.version) == ("engine 0", Phase.PREPARE, 2, 1)
        assert publisher.version == 0 and publisher.phase is Phase.IDLE
        for engine in engines:
            assert engine.verbs == ["check_weights", "check_weights", "resume"] and engine.version == 0
            assert not (await engine.generate(PROMPT, SamplingConfig(), 0)).failures
        learner.spoil = lambda buckets: None
        await publisher.publish(1)
        assert set(publisher.fleet.states.values()) == {EngineState.CURRENT}

    run(test())


@pytest.mark.parametrize(
    ("verb", "phase"),
    [
        ("check_weights", "prepare"),
        ("pause", "prepare"),
        ("load_weights", "transfer"),
        ("commit_weights", "commit"),
    ],
)
def test_a_failure_in_any_phase_is_mended_once_and_named_twice(tmp_path: Path, verb: str, phase: str) -> None:
    async def test() -> None:
        engines, _, publisher = await set_up(tmp_path)
        engines[1].fail[verb] = 1
        await publisher.publish(1)
        assert publisher.last is not None and publisher.last.num_attempts == 2
        assert [engine.version for engine in engines] == [1, 1]
        engines[1].fail[verb] = 2
        with pytest.raises(WeightUpdateError, match=f"version 2 failed on engine 1 in {phase}.*the dog ate it"):
            await publisher.publish(2)
        assert publisher.fleet.states[0] is EngineState.CURRENT and engines[0].version == 2

    run(test())


def test_an_engine_that_failed_in_the_transfer_stays_stale_and_frozen(tmp_path: Path) -> None:
    async def test() -> None:
        engines, _, publisher = await set_up(tmp_path)
        engines[1].fail["load_weights"] = 2
        with pytest.raises(WeightUpdateError, match="engine 1 in transfer"):
            await publisher.publish(1)
        assert publisher.fleet.states == {0: EngineState.CURRENT, 1: EngineState.STALE}
        assert "resume" not in engines[1].verbs and engines[1].verbs[-1] == "abort_weight_update"
        assert "engine 1 in transfer" in engines[1].reasons[0] and "the dog ate it" in engines[1].reasons[0]
        await publisher.publish(1)
        assert set(publisher.fleet.states.values()) == {EngineState.CURRENT}

    run(test())


def test_an_engine_that_does_not_answer_hits_the_deadline(tmp_path: Path) -> None:
    async def test() -> None:
        engines, _, publisher = await set_up(tmp_path, deadline_s=2)
        engines[0].hang = "load_weights"
        with pytest.raises(WeightUpdateError, match=r"engine 0 in transfer: no answer within 2 s"):
            await publisher.publish(1)

    run(test())


def test_when_the_learner_cannot_export_engines_are_never_touched(tmp_path: Path) -> None:
    async def test() -> None:
        engines, learner, publisher = await set_up(tmp_path)
        learner.weights = {"bad": None}  # type: ignore[dict-item]
        with pytest.raises(WeightUpdateError, match="failed on learner in export") as caught:
            await publisher.publish(1)
        assert caught.value.side == "learner"
        assert set(publisher.fleet.states.values()) == {EngineState.CURRENT}
        for engine in engines:
            assert engine.verbs == []
            assert not (await engine.generate(PROMPT, SamplingConfig(), 0)).failures

    run(test())


def test_engines_that_hold_different_weights_are_not_committed(tmp_path: Path) -> None:
    async def test() -> None:
        engines, _, publisher = await set_up(tmp_path, num_engines=3)

        async def other_digest() -> str:
            return "f00"

        engines[2].weight_checksum = other_digest  # type: ignore[method-assign]
        with pytest.raises(WeightUpdateError, match="engine 2 in verify: its weights have digest f00, not "):
            await publisher.publish(1)
        assert [engine.version for engine in engines] == [1, 1, 0]

    run(test())


def test_of_two_engines_that_disagree_nobody_can_say_which_is_right(tmp_path: Path) -> None:
    async def test() -> None:
        engines, _, publisher = await set_up(tmp_path, num_engines=2)

        async def other_digest() -> str:
            return "f00"

        engines[1].weight_checksum = other_digest  # type: ignore[method-assign]
        with pytest.raises(WeightUpdateError, match=r"engine 0 in verify: .*, not that of most engines"):
            await publisher.publish(1)
        assert [engine.version for engine in engines] == [0, 0]

    run(test())


def test_versions_only_grow_and_updates_do_not_overlap(tmp_path: Path) -> None:
    async def test() -> None:
        _, _, publisher = await set_up(tmp_path)
        await publisher.publish(3)
        with pytest.raises(ValueError, match="3 is not newer than the published version 3"):
            await publisher.publish(3)
        first = asyncio.create_task(publisher.publish(4))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="an update is in phase export"):
            await publisher.publish(5)
        await first

    run(test())
