"""Weight updates: the transaction with fake engines, phase by phase, and whole with a real one."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.exceptions import ActorDiedError

from raylign.actors.fleet import EngineState, Fleet
from raylign.actors.handles import LocalHandle
from raylign.actors.rollout_errors import RolloutError
from raylign.actors.weights.config import WeightsConfig
from raylign.actors.weights.publisher import WeightPublisher
from raylign.actors.weights.update import Phase, WeightUpdateError
from raylign.rollout.engine.base import EngineDiedError
from raylign.rollout.engine.config import EngineConfig
from raylign.rollout.engine.vllm_engine import VllmEngine
from raylign.rollout.sample import Group, Prompt
from raylign.rollout.sampling import SamplingConfig
from raylign.rollout.weights.buckets import BucketInfo
from tests.actors.weights.fake_sides import ALearner, Recorded, Replacing, a_model, flip_a_bit, run, until
from tests.patience import HANGS_S

PROMPT = Prompt("row-0", 0, "2 + 3 =", np.array([21, 22, 23], dtype=np.int32))


async def set_up(
    tmp_path: Path, num_engines: int = 2, deadline_s: float = HANGS_S
) -> tuple[list[Recorded], ALearner, WeightPublisher]:
    engines = [Recorded() for _ in range(num_engines)]
    for engine in engines:
        await engine.start()
        engine.verbs.clear()
    learner = ALearner(a_model(0), tmp_path)
    handles = [LocalHandle(engine) for engine in engines]
    return engines, learner, WeightPublisher(Fleet(handles), learner, WeightsConfig(deadline_s=deadline_s))


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


# ---- with vLLM --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(make_tiny_model, runner: asyncio.Runner):
    engine = VllmEngine(
        str(make_tiny_model("qwen3", tied=False)),
        EngineConfig(max_model_len=512, kv_cache_gib=0.2),
        weight_backend="shared_memory",
    )
    runner.run(engine.start())
    yield engine
    runner.run(engine.stop())


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def gaps_of(model_of_version: dict[int, Any], group: Group, temperature: float = 1.0) -> list[np.ndarray]:
    """|learner − engine| of every token under the weights that its span names; one array for each span."""
    gaps = []
    for each in group.completions:
        token_ids = torch.tensor(np.concatenate([PROMPT.token_ids, each.token_ids])[None].astype(np.int64))
        for span in each.version_spans:
            with torch.no_grad():
                logits = model_of_version[span.version](token_ids).logits[0] / temperature
            start = len(PROMPT.token_ids) - 1
            logps = torch.log_softmax(logits, -1)[start:-1].gather(1, token_ids[0, start + 1 :, None])[:, 0].numpy()
            gaps.append(np.abs(logps[span.start : span.end] - each.logps[span.start : span.end]))
    return gaps


def mean_gap(model_of_version: dict[int, Any], group: Group, temperature: float = 1.0) -> float:
    return float(np.concatenate(gaps_of(model_of_version, group, temperature)).mean())


@pytest.mark.ray
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_real_engine_agrees_with_the_learner_before_and_after(
    make_tiny_model, real, runner, temperature: float
) -> None:
    models = [load(make_tiny_model("qwen3", tied=False, seed=seed)) for seed in (0, 1)]
    learner = ALearner(dict(models[1].named_parameters()), bucket_bytes=200_000)
    publisher = WeightPublisher(Fleet([LocalHandle(real)]), learner, WeightsConfig())
    sampling = SamplingConfig(num_completions=8, max_tokens=40, temperature=temperature)

    async def test() -> None:
        await real.commit_weight_version(0)
        from_disk = await real.weight_checksum()
        assert mean_gap({0: models[0]}, await real.generate(PROMPT, sampling, 1), temperature) < 1e-5
        await publisher.publish(1)
        assert publisher.digest != from_disk
        assert mean_gap({1: models[1]}, await real.generate(PROMPT, sampling, 1), temperature) < 1e-5
        learner.weights = dict(models[0].named_parameters())
        await publisher.publish(2)
        assert publisher.digest == from_disk  # what was sent is what the files hold
        await publisher.close()

    runner.run(asyncio.wait_for(test(), HANGS_S))
    assert not [name for name in os.listdir("/dev/shm") if f"raylign-weights-{os.getpid()}-" in name]


def num_tokens_so_far(engine: VllmEngine) -> int:
    """Of the running completion that is furthest; nothing tells it from outside."""
    states = engine._llm.output_processor.request_states.values()
    return max((state.detokenizer.num_output_tokens() for state in states), default=0)


async def updated_in_flight(engine: VllmEngine, models: dict[int, Any], recompute_kv: bool) -> tuple[Group, Group]:
    """Completions during which version 1 took the place of version 0, and some after it."""
    learner = ALearner(dict(models[0].named_parameters()), bucket_bytes=200_000)
    config = WeightsConfig(recompute_kv=recompute_kv)
    await WeightPublisher(Fleet([LocalHandle(engine)]), learner, WeightsConfig(), version=-1).publish(0)
    publisher = WeightPublisher(Fleet([LocalHandle(engine)]), learner, config)
    long = SamplingConfig(num_completions=8, max_tokens=500)
    running = asyncio.create_task(engine.generate(PROMPT, long, 3))
    await until(lambda: num_tokens_so_far(engine) >= 60)
    learner.weights = dict(models[1].named_parameters())
    await publisher.publish(1)
    after = await engine.generate(PROMPT, long, 4)
    return await running, after


@pytest.mark.ray
def test_requests_in_flight_move_to_the_new_weights_and_say_from_which_token_on(make_tiny_model, real, runner) -> None:
    models = {seed: load(make_tiny_model("qwen3", tied=False, seed=seed)) for seed in (0, 1)}
    group, after = runner.run(asyncio.wait_for(updated_in_flight(real, models, recompute_kv=True), HANGS_S))
    both = [each for each in group.completions if len(each.version_spans) == 2]
    assert both, [each.version_spans for each in group.completions]
    for each in both:
        old, new = each.version_spans
        assert (old.version, old.start, new.version, new.end) == (0, 0, 1, len(each.token_ids)) and old.end == new.start
        assert old.end >= 30
    gaps = np.concatenate(gaps_of(models, group))
    print(f"worst gap {gaps.max():.1e}, mean {gaps.mean():.1e}")
    assert gaps.mean() < 1e-6 and gaps.max() < 1e-5
    assert {span.version for each in after.completions for span in each.version_spans} == {1}
    assert np.concatenate(gaps_of(models, after)).max() < 1e-5


@pytest.mark.ray
def test_running_requests_that_keep_their_old_keys_and_values_report_log_probs_of_neither_version(
    make_tiny_model, real, runner
) -> None:
    models = {seed: load(make_tiny_model("qwen3", tied=False, seed=seed)) for seed in (0, 1)}
    group, after = runner.run(asyncio.wait_for(updated_in_flight(real, models, recompute_kv=False), HANGS_S))
    both = [each for each in group.completions if len(each.version_spans) == 2]
    gaps = gaps_of(models, Group(group.prompt, tuple(both)))
    old = np.concatenate(gaps[0::2])
    new = np.concatenate(gaps[1::2])
    print(f"old version: worst gap {old.max():.1e}; new version on old keys: mean {new.mean():.1e}")
    assert old.max() < 1e-5 < 1e-2 < new.mean()
    # requests that came later share no keys and values with those before
    assert {span.version for each in after.completions for span in each.version_spans} == {1}
    assert np.concatenate(gaps_of(models, after)).max() < 1e-5


@pytest.mark.ray
def test_a_real_engine_refuses_a_damaged_bucket_and_recovers(make_tiny_model, real, runner) -> None:
    model = load(make_tiny_model("qwen3", tied=False, seed=1))
    learner = ALearner(dict(model.named_parameters()), bucket_bytes=200_000)
    publisher = WeightPublisher(Fleet([LocalHandle(real)]), learner, WeightsConfig())

    async def test() -> Group:
        exported = await publisher.export(5)
        flip_a_bit(exported.buckets[-1])
        with pytest.raises(WeightUpdateError, match=r"engine 0 in prepare, bucket .* damaged"):
            await publisher.deliver(exported)
        assert (await real.generate(PROMPT, SamplingConfig(max_tokens=4), 1)).completions  # still on the old version
        flip_a_bit(exported.buckets[-1])
        await publisher.deliver(exported)
        return await real.generate(PROMPT, SamplingConfig(num_completions=8, max_tokens=40), 1)

    group = runner.run(asyncio.wait_for(test(), HANGS_S))
    assert mean_gap({5: model}, group) < 1e-5


@pytest.mark.ray
def test_a_real_engine_refuses_weights_that_leave_some_of_its_own_unfilled(make_tiny_model, real, runner) -> None:
    model = load(make_tiny_model("qwen3", tied=False, seed=1))
    weights = dict(model.named_parameters())
    half = {name: tensor for name, tensor in weights.items() if "1.self_attn.k_proj" not in name}
    learner = ALearner(half, bucket_bytes=200_000)
    publisher = WeightPublisher(Fleet([LocalHandle(real)]), learner, WeightsConfig(), version=5)

    async def test() -> None:
        with pytest.raises(
            WeightUpdateError, match=r"leave 1 of the engine's unfilled: model.layers.1.self_attn.qkv_proj"
        ):
            await publisher.publish(6)
        learner.weights = weights
        await publisher.publish(6)
        group = await real.generate(PROMPT, SamplingConfig(num_completions=4, max_tokens=20), 1)
        assert mean_gap({6: model}, group) < 1e-5

    runner.run(asyncio.wait_for(test(), HANGS_S))
