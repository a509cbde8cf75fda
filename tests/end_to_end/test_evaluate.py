"""`raylign evaluate` with the shipped recipe, on the folder of a finished run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raylign.jobs.cli import run_command_line
from raylign.jobs.run.checkpoints import CheckpointStore
from raylign.jobs.run.run import Run

pytestmark = pytest.mark.ray
NUM_PROMPTS = 16


def test_accuracy_with_an_interval_and_pass_at_k(
    short_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "results"
    words = ["evaluate", "--model", str(short_run.folder.path), "--config", "evaluate_arithmetic"]
    words += ["--folder", str(folder), "--num_prompts", str(NUM_PROMPTS), "--engine.kv_cache_gib", "0.1"]
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
    assert len(samples) == NUM_PROMPTS
    # worked out from the samples: pass@4 of four is whether any is right, pass@1 the mean
    correct = [[(completion["total"] or 0) >= 1 for completion in sample["completions"]] for sample in samples]
    assert all(len(each) == 4 for each in correct)
    assert results["evaluation/pass_at_1"] == pytest.approx(sum(map(sum, correct)) / (4 * NUM_PROMPTS))
    assert results["evaluation/pass_at_4"] == pytest.approx(sum(map(any, correct)) / NUM_PROMPTS)
    assert "evaluation/accuracy" in capsys.readouterr().out

    before = (folder / "evaluation.json").read_bytes()
    assert run_command_line(words) == 2  # an evaluation is not overwritten either
    assert "exists and is not empty" in capsys.readouterr().err
    assert (folder / "evaluation.json").read_bytes() == before
