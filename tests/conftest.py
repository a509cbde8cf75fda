"""Fixtures that several folders share."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raylign.actors.warm.copies import WarmContext
from raylign.actors.warm.process import cool_down, warm_up

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what it puts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests interrupt what they start, which inherits this

MakeModel = Callable[..., Path]
QWEN2_SHAPE = {
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "tie_word_embeddings",
    "pad_token_id",
    "eos_token_id",
}


@pytest.fixture(scope="session")
def make_tiny_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """`make_tiny_model("qwen2", tied=True, seed=0)`: a folder with a random model whose every weight matters.

    Fresh models have zero biases, unit norms and nearly flat outputs; noise on all weights makes differences visible.
    """
    made: dict[tuple[str, bool, int], Path] = {}

    def make(architecture: str, tied: bool, seed: int = 0) -> Path:
        import torch
        from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

        from raylign.jobs.init_model import InitModelConfig, init_model
        from raylign.rollout.data.config import DataConfig

        key = (architecture, tied, seed)
        if key not in made:
            folder = tmp_path_factory.mktemp("tiny")
            rows = [{"question": f"what is {a} + {b}?", "answer": str(a + b)} for a in range(9) for b in range(9)]
            data = folder / "rows.jsonl"
            data.write_text("\n".join(json.dumps(row) for row in rows))
            config: dict[str, Any] = {
                "tie_word_embeddings": tied,
                "vocabulary_size": 290,
                "seed": seed,
            }
            made[key] = init_model(
                InitModelConfig(output=folder / "model", data=DataConfig(source=str(data)), num_layers=2, **config)
            )
            model = AutoModelForCausalLM.from_pretrained(made[key], dtype=torch.float32)
            if architecture == "qwen2":
                shape = {k: v for k, v in model.config.to_dict().items() if k in QWEN2_SHAPE}
                model = Qwen2ForCausalLM(Qwen2Config(**shape))
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.08 * torch.randn(parameter.shape, generator=generator))
            model.save_pretrained(made[key])
        return made[key]

    return make


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """One event loop for all tests of a module: an engine lives in the loop that it was started in."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="session")
def warm_engines() -> Iterator[None]:
    """Engines of this process start as those of a run: their processes are copies of a warm one."""
    was_begun = warm_up()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # which a copy needs
        patch.setitem(multiprocessing.context._concrete_contexts, "spawn", WarmContext())  # type: ignore[attr-defined]
        yield
    if was_begun:
        cool_down()
