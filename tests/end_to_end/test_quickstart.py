"""The quickstart's stages in their order, with few steps each. benchmarks/quickstart_seeds.py measures the real one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raylign.jobs import quickstart as quickstart_module
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.quickstart import QuickstartConfig, quickstart

pytestmark = pytest.mark.ray


def test_all_stages_end_in_a_report_and_a_summary(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = quickstart_module.recipe

    def short(name: str, config: QuickstartConfig, stage: str, model: Path) -> TrainConfig:
        recipe = shipped(name, config, stage, model)
        for data in (recipe.data, recipe.evaluation.data):
            if data is not None:
                data.num_generated = 1000
        recipe.num_steps, recipe.rollout.prompts_per_step, recipe.evaluation.num_prompts = 2, 8, 16
        recipe.learner.warmup_steps = 0
        return recipe

    monkeypatch.setattr(quickstart_module, "recipe", short)
    folder = tmp_path / "quickstart"
    quickstart(QuickstartConfig(folder=folder, seed=5))
    summary = json.loads((folder / "summary.json").read_text())
    assert {"accuracy_before", "accuracy_after", "seconds", "tokens_generated", "num_steps", "seed"} <= summary.keys()
    assert summary["seed"] == 5
    assert summary["num_steps"] == 2
    assert Path(summary["checkpoint"]).is_dir()
    assert "grpo" in (folder / "report.html").read_text()
