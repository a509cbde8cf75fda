"""Whole runs on the real vLLM, DeepSpeed and Ray, with a tiny model; `raylign evaluate` on the folder of one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raylign.jobs.cli import run_command_line
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


def test_accuracy_with_an_interval_and_pass_at_k(
    short_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the shipped recipe."""
    folder, num_prompts = tmp_path / "results", 16
    words = ["evaluate", "--model", str(short_run.folder.path), "--config", "evaluate_arithmetic"]
    words += ["--folder", str(folder), "--num_prompts", str(num_prompts), "--engine.kv_cache_gib", "0.1"]
    words += ["--sampling.temperature", "1.0", "--sampling.num_completions", "4", "--pass_at", "[1, 2, 4]"]
    assert run_command_line(words) == 0

    results = json.loads((folder / "evaluation.json").read_text())
    latest = CheckpointStore(short_run.folder.checkpoints_path).latest()
    assert latest is not None
    assert results["model"] == str(latest.path)
    assert 0 <= results["evaluation/accuracy_low"] <= results["evaluation/accuracy"] <= 1
    assert results["evaluation/accuracy"] <= results["evaluation/accuracy_high"] <= 1
    assert results["evaluation/accuracy_low"] < results["evaluation/accuracy_high"]
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == num_prompts
    # worked out from the samples: pass@4 of four is whether any is right, pass@1 the mean
    correct = [[(completion["total"] or 0) >= 1 for completion in sample["completions"]] for sample in samples]
    assert all(len(each) == 4 for each in correct)
    assert results["evaluation/pass_at_1"] == pytest.approx(sum(map(sum, correct)) / (4 * num_prompts))
    assert results["evaluation/pass_at_4"] == pytest.approx(sum(map(any, correct)) / num_prompts)
    assert "evaluation/accuracy" in capsys.readouterr().out

    before = (folder / "evaluation.json").read_bytes()
    assert run_command_line(words) == 2  # an evaluation is not overwritten either
    assert "exists and is not empty" in capsys.readouterr().err
    assert (folder / "evaluation.json").read_bytes() == before


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
