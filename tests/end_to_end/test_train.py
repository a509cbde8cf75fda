"""Whole runs on the real vLLM, DeepSpeed and Ray, with a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raylign.jobs.run.checkpoints import CheckpointStore
from raylign.jobs.run.folder import read_metrics
from raylign.jobs.run.metrics import undocumented
from raylign.jobs.run.run import Run
from raylign.jobs.train import train
from tests.end_to_end.conftest import configured, small_config

pytestmark = pytest.mark.ray


def step_lines(folder: Path) -> list[dict[str, float]]:
    return [line for line in read_metrics(folder) if "learner/loss" in line]


def test_a_run_leaves_metrics_samples_checkpoint_summary_and_report(short_run: Run) -> None:
    folder = short_run.folder.path
    assert [line["step"] for line in step_lines(folder)] == [1, 2, 3]
    assert (folder / "report.html").stat().st_size > 100_000
    assert list((folder / "samples").glob("step-*.jsonl"))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["finished"]
    assert summary["num_steps"] == 3
    assert 0 <= summary["accuracy_before"] <= 1
    assert 0 <= summary["accuracy_after"] <= 1
    assert summary["tokens_generated"] > 3 * 8 * 4


def test_every_metric_key_is_documented(short_run: Run) -> None:
    keys = {key for line in read_metrics(short_run.folder.path) for key in line}
    assert undocumented(keys) == []
    for expected in ("reward/mean", "learner/entropy", "mismatch/mean_abs_logp_difference", "weights/pause_s"):
        assert expected in keys


def test_weights_follow_the_learner_at_every_step(short_run: Run) -> None:
    lines = step_lines(short_run.folder.path)
    assert [line["weights/version"] for line in lines] == [1, 2, 3]
    # steps 2 and 3 sample from weights that went through the transaction: engine and learner must agree
    assert all(line["mismatch/mean_abs_logp_difference"] <= 1e-4 for line in lines)


def test_the_checkpoint_loads_in_transformers(short_run: Run) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    latest = CheckpointStore(short_run.folder.checkpoints_path).latest()
    assert latest is not None
    model = AutoModelForCausalLM.from_pretrained(latest.path)
    assert AutoTokenizer.from_pretrained(latest.path).eos_token_id == model.generation_config.eos_token_id


@pytest.fixture(scope="module")
def run_with_adapters(ray_session: None, start_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Adapters, temperature 0.7, and a reward that raises for some prompts and ends its process for others."""
    folder = tmp_path_factory.mktemp("adapters")
    reward = folder / "my_reward.py"
    reward.write_text(
        "import os\n"
        "def reward(completions, prompt, references, row):\n"
        "    if prompt[0] in '13579': raise RuntimeError('odd')\n"
        "    if prompt[0] in '48': os._exit(7)\n"
        "    return [float(len(text)) for text in completions]\n"
    )
    values = small_config(
        start_model,
        folder / "run",
        sampling={"max_tokens": 4, "num_completions": 4, "temperature": 0.7},
        learner={"learning_rate": 1e-2, "threads_per_rank": 1, "lora": {"rank": 4}},
        rewards=[{"name": "function", "path": f"{reward}:reward"}],
    )
    return train(configured(values))


def test_engine_and_learner_agree_with_adapters_and_temperature(run_with_adapters: Run) -> None:
    lines = step_lines(run_with_adapters.folder.path)
    assert len(lines) == 2
    assert all(line["mismatch/mean_abs_logp_difference"] <= 1e-4 for line in lines)


def test_a_reward_that_fails_is_counted_and_the_run_goes_on(run_with_adapters: Run) -> None:
    assert all(0 < line["reward/failure_share"] < 1 for line in step_lines(run_with_adapters.folder.path))
    assert run_with_adapters.summary()["finished"]
