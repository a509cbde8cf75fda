"""LoRA: only the adapters travel, and running requests move to the new ones. A real learner, a real vLLM engine."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raylign.actors.fleet import EngineState, Fleet
from raylign.actors.handles import LocalHandle
from raylign.actors.learner.rank import LearnerRank
from raylign.actors.learner.spec import LearnerSpec
from raylign.actors.weights.config import WeightsConfig
from raylign.actors.weights.publisher import WeightPublisher
from raylign.learners.algorithms.sft import SftConfig
from raylign.learners.engines.config import LearnerConfig, LoraConfig
from raylign.rollout.engine.config import EngineConfig
from raylign.rollout.engine.vllm_engine import VllmEngine, allowed_lora_rank
from raylign.rollout.sample import Group, Prompt
from raylign.rollout.sampling import SamplingConfig
from raylign.rollout.weights.buckets import BucketInfo, SharedMemorySender, read_bucket
from tests.patience import HANGS_S

PROMPT = Prompt("row-0", 0, "2 + 3 =", np.array([21, 22, 23], dtype=np.int32))


class Learner:
    """A rank in this process, whose adapters are set instead of trained."""

    def __init__(self, model: Path, folder: Path) -> None:
        config = LearnerConfig(lora=LoraConfig(rank=4), threads_per_rank=1)
        spec = LearnerSpec(config, str(model), SftConfig(), 1.0, 4, 0, str(folder), ships_adapters=True)
        self.rank = LearnerRank(spec)
        self._model = model
        self.models: dict[int, Any] = {}

    def draw_adapters(self, version: int) -> None:
        """Large random ones; the merged model is kept for comparison."""
        from transformers import AutoModelForCausalLM

        generator = torch.Generator().manual_seed(version)
        learner = self.rank
        with torch.no_grad():
            for parameter in learner.engine.trainable:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
        merged = AutoModelForCausalLM.from_pretrained(self._model, dtype=torch.float32)
        merged.load_state_dict({name: tensor.clone() for name, tensor in learner.weights()}, strict=False)
        self.models[version] = merged

    async def export_weights(self, version: int) -> list[BucketInfo]:
        return self.rank.export_weights(version)

    async def release_weights(self) -> None:
        self.rank.release_weights()


def worst_gap(models: dict[int, Any], group: Group) -> float:
    """Largest |learner − engine| over all tokens, each under the version that its span names."""
    worst = 0.0
    for each in group.completions:
        token_ids = torch.tensor(np.concatenate([PROMPT.token_ids, each.token_ids])[None].astype(np.int64))
        for span in each.version_spans:
            with torch.no_grad():
                logps = torch.log_softmax(models[span.version](token_ids).logits[0], -1)
            sampled = logps[2:-1].gather(1, token_ids[0, 3:, None])[:, 0].numpy()
            worst = max(worst, float(np.abs(sampled - each.logps)[span.start : span.end].max()))
    return worst


@pytest.mark.ray
@pytest.mark.usefixtures("warm_engines")
def test_adapters_alone_bring_engines_to_the_learners_policy_also_in_flight(
    make_tiny_model, runner, tmp_path: Path
) -> None:
    model = make_tiny_model("qwen3", tied=True)
    learner = Learner(model, tmp_path)
    engine = VllmEngine(
        str(model), EngineConfig(max_model_len=512, kv_cache_gib=0.2), weight_backend="shared_memory", lora_rank=4
    )
    fleet = Fleet([LocalHandle(engine)], current=False)
    publisher = WeightPublisher(fleet, learner, WeightsConfig())
    long = SamplingConfig(num_completions=8, max_tokens=480)

    def num_tokens_so_far() -> int:
        states = engine._llm.output_processor.request_states.values()
        return max((state.detokenizer.num_output_tokens() for state in states), default=0)

    async def test() -> Group:
        await engine.start()
        try:
            with pytest.raises(ValueError, match="was sent none yet"):
                await engine.generate(PROMPT, long, 0)
            learner.draw_adapters(0)
            await publisher.catch_up()
            assert fleet.states == {0: EngineState.CURRENT}
            first_digest = publisher.digest or await engine.weight_checksum()
            running = asyncio.create_task(engine.generate(PROMPT, long, 3))
            while num_tokens_so_far() < 60:
                await asyncio.sleep(0.001)
            learner.draw_adapters(1)
            metrics = await publisher.publish(1)
            assert publisher.digest != first_digest
            num_adapter_parameters = sum(parameter.numel() for parameter in learner.rank.engine.trainable)
            padding = 64 * len(learner.rank.engine.trainable)
            assert 4 * num_adapter_parameters <= metrics["weights/bytes"] <= 4 * num_adapter_parameters + padding
            group = await running
            assert worst_gap(learner.models, await engine.generate(PROMPT, long, 4)) < 1e-5
            learner.draw_adapters(0)
            await publisher.publish(2)
            assert publisher.digest == first_digest  # the base weights lie untouched below
            return group
        finally:
            await publisher.close()
            await engine.stop()

    group = runner.run(asyncio.wait_for(test(), HANGS_S))
    switched = [each for each in group.completions if [span.version for span in each.version_spans] == [0, 1]]
    assert switched
    gap = worst_gap(learner.models, group)
    print(f"worst gap {gap:.1e}")
    assert gap < 1e-5


def test_adapters_are_named_as_peft_files_name_them(make_tiny_model, tmp_path: Path) -> None:
    learner = Learner(make_tiny_model("qwen3", tied=True), tmp_path)
    buckets = learner.rank.export_weights(1)
    found = {name: tensor for bucket in buckets for name, tensor in read_bucket(bucket)}
    adapter = buckets[0].adapter
    assert adapter is not None and adapter["r"] == 4 and adapter["lora_alpha"] == 32
    assert len(found) == 2 * 2 * 7  # A and B of seven linear layers in each of two blocks
    assert found["base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"].shape[0] == 4
    assert math.isclose(found["base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"].abs().max().item(), 0.0)
    learner.rank.release_weights()


def test_an_engine_started_without_room_for_adapters_refuses_them(tmp_path: Path) -> None:
    buckets = SharedMemorySender(1000, tmp_path).export(1, [("a", torch.ones(3))], adapter={"r": 4})

    async def send() -> None:
        await VllmEngine("nowhere", EngineConfig()).load_weights(buckets)

    with pytest.raises(RuntimeError, match="started without one"):
        asyncio.run(send())


def test_vllm_has_room_for_the_next_larger_rank() -> None:
    assert [allowed_lora_rank(rank) for rank in (1, 4, 8, 17, 512)] == [1, 8, 8, 32, 512]
    with pytest.raises(ValueError, match="rank 512 at most"):
        allowed_lora_rank(513)
