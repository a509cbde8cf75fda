"""The tiny preference recipes, two steps each, on the real Ray, DeepSpeed and, where the policy answers, vLLM."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from raylign.jobs.config.loading import load_config
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.run.folder import read_metrics
from raylign.jobs.train import train
from tests.jobs.stand_ins import command_of_recipe, config_of_recipe, shipped_recipes

pytestmark = pytest.mark.ray
SMALL = {
    "num_steps": 2,
    "rollout": {"prompts_per_step": 16, "engine": {"kv_cache_gib": 0.1}},
    "learner": {"threads_per_rank": 1, "warmup_steps": 0},
}


def preference_recipes() -> list[str]:
    """Those of two CPU cores."""
    names = [name for name in shipped_recipes() if name.endswith("_arithmetic") and command_of_recipe(name) == "train"]
    return [name for name in names if config_of_recipe(name).algorithm.curriculum == "pairs"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows as `raylign data best-of-n` writes them, without the n of one recipe."""
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    sums = [(a, b) for a in range(9) for b in range(9)]
    rows = [
        {"prompt": f"{a} + {b} =", "chosen": f" {a + b}", "rejected": f" {a - b}.", "references": [str(a + b)]}
        for a, b in sums
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.parametrize("name", preference_recipes())
def test_a_tiny_preference_recipe_trains(
    name: str, ray_session: None, start_model: Path, pairs: Path, tmp_path: Path
) -> None:
    own = {"folder": str(tmp_path / "run"), "model": {"path": str(start_model)}, "data": {"source": str(pairs)}}
    # without prompts to answer, recipes that learn from rows alone start no engine
    evaluation = {"data": None, "pairs": {"source": str(pairs)}, "num_prompts": 8}
    config = load_config(TrainConfig, [name], {**SMALL, **own, "evaluation": evaluation})
    run = train(config)
    lines = read_metrics(run.folder.path)
    steps = [line for line in lines if "learner/loss" in line]
    assert [line["step"] for line in steps] == [1, 2]
    assert np.isfinite([line["learner/loss"] for line in steps]).all()
    assert sum("evaluation/reward_accuracy" in line for line in lines) == 2
    assert any(line.get("rollout/tokens", 0) > 0 for line in steps) == config.algorithm.needs_rollouts
    assert run.summary()["finished"]
