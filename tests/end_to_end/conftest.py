"""One Ray, one tiny model that knows some arithmetic, for all end-to-end tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.util import placement_group_table

from raylign.actors.cluster import ClusterConfig, ray_cluster
from raylign.jobs.config.loading import load_config
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.init_model import InitModelConfig, init_model
from raylign.jobs.run.run import Run
from raylign.rollout.data.config import DataConfig
from tests.patience import HANGS_S

SUMS = {
    "source": "reasoning_gym:chain_sum?min_terms=2&max_terms=2&min_digits=1&max_digits=1",
    "num_generated": 500,
    "prompt": "{metadata.expression} =",
    "template": "{prompt}",
}
TRAIN = {**SUMS, "rows": "20%:100%"}
HELD_OUT = {**SUMS, "rows": "0%:20%"}


@pytest.fixture(scope="session")
def planted_secrets() -> Iterator[dict[str, str]]:
    """Six keys in the environment of all that this session starts; test_secrets.py looks where they got to."""
    names = ("OPENAI_API_KEY", "WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "ANTHROPIC_API_KEY", "JUDGE_KEY")
    with pytest.MonkeyPatch.context() as patch:
        secrets = {name: f"planted-{name.lower().replace('_', '-')}-5ecre7" for name in names}
        for name, secret in secrets.items():
            patch.setenv(name, secret)
        yield secrets


@pytest.fixture(scope="session")
def ray_session(planted_secrets: dict[str, str]) -> Iterator[None]:
    """A private Ray for this session."""
    with ray_cluster(ClusterConfig(address="local")):
        yield


@pytest.fixture(autouse=True)
def no_room_stays_taken() -> Iterator[None]:
    """What a job reserved in this session's Ray it gives back, also when it failed."""
    yield
    if ray.is_initialized():
        left = [group["name"] for group in placement_group_table().values() if group["state"] != "REMOVED"]
        assert not left


@pytest.fixture(scope="session")
def start_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose tokenizer knows sums."""
    folder = tmp_path_factory.mktemp("models") / "start"
    return init_model(
        InitModelConfig(output=folder, data=DataConfig(**SUMS), num_layers=2, width=64, num_heads=2, seed=1)
    )


def small_config(model: Path, folder: Path, **sections: Any) -> dict[str, Any]:
    """Values of a synchronous GRPO run of a few steps, which may start as slowly as it likes."""
    values: dict[str, Any] = {
        "name": "test",
        "folder": str(folder),
        "num_steps": 2,
        "seed": 3,
        "model": {"path": str(model)},
        "data": TRAIN,
        "sampling": {"max_tokens": 4, "num_completions": 4},
        "rollout": {"prompts_per_step": 8, "engine": {"max_model_len": 32, "kv_cache_gib": 0.1}},
        "rewards": [{"name": "numeric"}],
        "learner": {"learning_rate": 1e-3, "threads_per_rank": 1},
        "checkpoints": {"every_steps": 0},
        "async": {"max_staleness": 0},
    }
    values |= sections
    values["learner"] = {"start_deadline_s": HANGS_S, **values["learner"]}
    values["rollout"] = {**values["rollout"], "engine": {"start_deadline_s": HANGS_S, **values["rollout"]["engine"]}}
    return values


def configured(values: dict[str, Any]) -> TrainConfig:
    """Checked as the command line checks it."""
    return load_config(TrainConfig, [], values)


def write_recipe(values: dict[str, Any], path: Path) -> Path:
    """The same as a file."""
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="session")
def short_run(ray_session: None, start_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished GRPO run of three steps with evaluation, which several tests look at."""
    from raylign.jobs.train import train

    folder = tmp_path_factory.mktemp("runs") / "short"
    evaluation = {"data": HELD_OUT, "num_prompts": 16}
    return train(configured(small_config(start_model, folder, num_steps=3, evaluation=evaluation)))
