"""What a learner rank and a cache take, by hand numbers; `benchmarks/learner_memory.py` measures a rank."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from raylign.jobs.checks.learner_memory import learner_bytes
from raylign.jobs.checks.machine import GIB
from raylign.jobs.checks.memory_estimate import ModelSize, kv_cache_tokens, read_model_size
from raylign.jobs.config.train import TrainConfig


def held_by_a_rank(size: ModelSize, values: dict[str, Any], on_gpu: bool = False, **learner: Any) -> list[float]:
    """Bytes of weights, optimizer and gradients, for each parameter, when a rank takes most; a pass takes nothing."""
    config = TrainConfig.model_validate(values | {"learner": learner})
    parts = learner_bytes(replace(size, num_layers=0, vocabulary_size=0, width=0), config, on_gpu=on_gpu)
    groups = {"weights": 0.0, "optimizer": 0.0, "gradients": 0.0}
    for part, num_bytes in parts.items():
        if part.split(" ")[0] in groups:
            groups[part.split(" ")[0]] += num_bytes / size.num_parameters
    return [round(number, 2) for number in groups.values()]


def test_memory_of_weights_optimizer_and_gradients_by_stage_and_precision(values: dict[str, Any], model: Path) -> None:
    """What DeepSpeed holds for each parameter: `benchmarks/learner_memory.py` measures it."""
    from transformers import AutoModelForCausalLM

    num = AutoModelForCausalLM.from_pretrained(model).num_parameters()
    size = read_model_size(model)
    assert size is not None and size.num_parameters == num
    held = partial(held_by_a_rank, size, values)
    # stage 0: weights, two moments, and gradients with a flat copy of them for the other ranks
    assert held() == [4, 8, 8]
    assert held(optimizer="rmsprop") == [4, 4, 8]
    # float32 at stages 1 to 3 has masters beside its weights; a bucket has all gradients, a rank keeps its half, and at
    # stage 2 the half of the passes before
    assert held(zero_stage=1, num_ranks=2) == [4, 6, 6]
    assert held(zero_stage=2, num_ranks=2) == [4, 6, 8]
    assert held(zero_stage=2, num_ranks=2, micro_batch_tokens=1_000_000) == [4, 6, 6]
    # stage 3: half of the weights, and in a pass all of them, twice; the bucket and half of the gradients
    assert held(zero_stage=3, num_ranks=2) == [10, 6, 6]
    # bfloat16: float32 masters and sums of gradients beside bfloat16 weights and gradients
    assert held(dtype="bfloat16") == [2, 12, 6]
    assert held(dtype="bfloat16", zero_stage=2, num_ranks=2) == [2, 6, 4]
    assert held(dtype="bfloat16", zero_stage=3, num_ranks=2) == [1, 6, 10]  # on CPU the bucket once more in float32
    assert held(on_gpu=True, zero_stage=3, num_ranks=2) == [5, 6, 4]


def test_memory_of_lora_counts_its_adapters(values: dict[str, Any], model: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model), LoraConfig(r=4, target_modules="all-linear"))
    num_trained, num_all = adapted.get_nb_trainable_parameters()
    size = read_model_size(model)
    assert size is not None
    found = held_by_a_rank(size, values, lora={"rank": 4})
    expected = [num_bytes / size.num_parameters for num_bytes in (4 * num_all, 8 * num_trained, 8 * num_trained)]
    assert found == pytest.approx(expected, abs=0.01)


def test_tokens_in_the_cache(values: dict[str, Any], model: Path) -> None:
    size = read_model_size(model)
    assert size is not None
    engine = TrainConfig.model_validate(values).rollout.engine
    assert kv_cache_tokens(size, engine) == GIB // 2 // 512
