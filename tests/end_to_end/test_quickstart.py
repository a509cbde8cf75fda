"""The quickstart's stages in their order, with few steps each. benchmarks/quickstart_seeds.py measures the real one."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from raylign.jobs import quickstart as quickstart_module
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.quickstart import QuickstartConfig, quickstart

pytestmark = pytest.mark.ray

ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
FROM_AN_ACTOR = r"(\((RolloutWorker|RayTrainWorker|RewardServer|TrainController) pid=\d+\) )?"
KNOWN_LINES = re.compile(
    FROM_AN_ACTOR
    + "("
    + "|".join(
        (
            r"making a tiny model and its tokenizer",
            r"(still )?starting the learner( and the engines)?( \(\w+\))?",
            r"(still )?waiting for .+",
            r"quickstart-(sft|grpo): \d+/\d+ steps  .+",
            r"step \d+: held-out accuracy \d+\.\d% \[\d+\.\d%, \d+\.\d%\]",
            r"saved step \d+",
            r"wrote .+/model: a start for --model\.path .+",
            r"checking model, data and rewards",
            r"(held-out accuracy \d+\.\d% → \d+\.\d%; )?done: .+; look at .+report\.html",
            r"go on from it by --model\.path .+ --num_steps N --resume",
            r"going on with the quickstart in .+",
            r"held-out accuracy \d+\.\d% → \d+\.\d% in \d+ s; open .+report\.html",
        )
    )
    + ")"
)
"""All that a quickstart without a fault says: a user can read each, and act on it or wait."""


def unknown_lines(output: str) -> list[str]:
    """Lines of other kinds; what stands before a carriage return was overwritten by a bar, and counts."""
    lines = ANSI.sub("", output).replace("\r", "\n").splitlines()
    return [line for line in lines if line.strip() and not KNOWN_LINES.fullmatch(line.strip())]


def test_lines_that_nobody_can_act_on_are_told_from_those_that_say_something() -> None:
    assert unknown_lines("starting the learner and the engines\nstill starting the learner (1m00s)\n\n") == []
    assert unknown_lines("\x1b[36m(RolloutWorker pid=7)\x1b[0m waiting for the vLLM engine to start since 30 s") == []
    noise = [
        "(RolloutWorker pid=7) W1127 18:26:28 triton.py:53] Triton not available, find_triton_kernels = []",
        "Loading safetensors checkpoint shards: 100% Completed | 1/1",
        "step 9: effective sample size alarm: the update counts as if only 32% of its tokens were there",
        "quickstart-sft failed",
    ]
    assert unknown_lines("\n".join(noise)) == noise


def test_all_stages_end_in_a_report_and_a_summary(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
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
    time.sleep(1.0)
    while any(capfd.readouterr()):  # Ray may still bring lines of actors of tests before this one
        time.sleep(1.0)
    quickstart(QuickstartConfig(folder=folder, seed=5))
    said = capfd.readouterr()
    assert "step 0: held-out accuracy" in said.err
    assert unknown_lines(said.out + said.err) == []
    summary = json.loads((folder / "summary.json").read_text())
    assert {"accuracy_before", "accuracy_after", "seconds", "tokens_generated", "num_steps", "seed"} <= summary.keys()
    assert summary["seed"] == 5
    assert summary["num_steps"] == 2
    assert (folder / summary["checkpoint"]).is_dir()
    assert "go on from it by --model.path" in said.err and "--resume" in said.err
    with pytest.raises(ValueError, match=r"is done: .*report.html; for another one choose --folder"):
        quickstart(QuickstartConfig(folder=folder, seed=5))
    (folder / "grpo" / "summary.json").unlink()  # as a Ctrl-C leaves it
    assert quickstart(QuickstartConfig(folder=folder, seed=5))["checkpoint"] == summary["checkpoint"]
    assert "grpo" in (folder / "report.html").read_text()
