"""Weight updates of a real engine: its log-probs are the learner's before, during and after."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raylign.actors.fleet import Fleet
from raylign.actors.handles import LocalHandle
from raylign.actors.weights.config import WeightsConfig
from raylign.actors.weights.publisher import WeightPublisher
from raylign.actors.weights.update import WeightUpdateError
from raylign.rollout.engine.config import EngineConfig
from raylign.rollout.engine.vllm_engine import VllmEngine
from raylign.rollout.sample import Group
from raylign.rollout.sampling import SamplingConfig
from tests.actors.weights.fake_sides import PROMPT, ALearner, flip_a_bit, until
from tests.patience import HANGS_S


@pytest.fixture(scope="module")
def real(warm_engines: None, make_tiny_model, runner: asyncio.Runner):
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
