"""A real run that grows and shrinks: engines 1 → 2 → 1 while it trains, learner ranks 1 → 2 → 1 between two starts."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from raylign.jobs.run.folder import read_metrics
from raylign.rollout.experience.replay import ReplayLog
from tests.end_to_end.conftest import SUMS, small_config, write_recipe
from tests.end_to_end.processes import WatchedProcess, raylign
from tests.patience import HANGS_S

pytestmark = [pytest.mark.ray, pytest.mark.slow]

GROUPS_PER_STEP = 8


def scale(folder: Path, engines: int) -> str:
    command = [sys.executable, "-m", "raylign.jobs", "scale", str(folder), "--engines", str(engines)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def engine_cores(process: WatchedProcess) -> int:
    return sum("VLLM::EngineCore" in " ".join(one.cmdline()) for one in process.alive())


def test_one_engine_then_two_then_one_in_a_run(start_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    values = small_config(start_model, folder, num_steps=100_000) | {"async": {"max_staleness": 2}}
    recipe = write_recipe(values, tmp_path / "recipe.yaml")

    def steps() -> int:
        return len(read_metrics(folder))

    with raylign("train", "--config", str(recipe), log=tmp_path / "log") as process:
        process.wait_for(lambda: steps() >= 10, "step 10")
        assert scale(folder, 2).splitlines()[-1] == "2 engines serve"
        process.wait_for(lambda: engine_cores(process) == 2, "two engines among the processes")
        joined_at = steps()
        process.wait_for(lambda: steps() >= joined_at + 10, "ten steps of two engines")
        assert scale(folder, 1).splitlines()[-1] == "1 engines serve"
        left_at = steps()
        process.wait_for(lambda: steps() >= left_at + 10 and engine_cores(process) == 1, "ten steps of one engine")
        os.kill(process.pid, signal.SIGINT)
        assert process.wait() == 130, process.output()
        said = process.output()
    (after_s,) = map(float, re.findall(r"rollout worker 1 has joined: it serves ([\d.]+) s after it was up", said))
    print(f"served {after_s} s after it was up")
    lines = read_metrics(folder)
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    engines = [line.get("rollout/engines") for line in lines]
    assert engines[:10] == [None] * 10 and engines[joined_at + 5] == 2 and engines[-1] == 1
    assert sum(line["rollout/reissued_prompts"] + line["rollout/aborted_groups"] for line in lines) == 0
    log = ReplayLog.open(folder)
    trained = [
        ordinal for step in range(len(lines)) for ordinal in log.lease(step).rows.batch().column("ordinal").to_pylist()
    ]
    assert len(set(trained)) == len(trained) == len(lines) * GROUPS_PER_STEP
    ahead = {number for number in range(max(trained)) if number not in set(trained)}
    assert len(ahead) <= 3 * GROUPS_PER_STEP  # finished later than others, and waiting in the log
    assert "<figcaption>Engines<" in (folder / "report.html").read_text()


def test_one_rank_then_two_then_one_in_a_run(start_model: Path, tmp_path: Path) -> None:
    """As long as the run that was never resized, loss by loss."""
    values = small_config(start_model, tmp_path / "resized", num_steps=3) | {
        "algorithm": {"name": "sft"},
        "data": {**SUMS, "template": "{prompt}"},
        "checkpoints": {"every_steps": 3, "keep_last": 9},
    }
    values["learner"] = {**values["learner"], "zero_stage": 2}
    recipe = write_recipe(values, tmp_path / "recipe.yaml")

    def train(folder: Path, num_ranks: int, num_steps: int) -> None:
        words = ["--folder", str(folder), "--learner.num_ranks", str(num_ranks), "--num_steps", str(num_steps)]
        resume = ["--resume"] if folder.exists() else []
        with raylign("train", "--config", str(recipe), *words, *resume, log=tmp_path / "log") as process:
            assert process.wait() == 0, process.output()

    resized, same = tmp_path / "resized", tmp_path / "same"
    train(resized, 1, 3)
    shutil.copytree(resized, same)
    train(resized, 2, 6)
    assert not list((resized / "checkpoints").glob(".tmp-*"))
    train(resized, 1, 9)
    train(same, 1, 9)
    losses = [[line["learner/loss"] for line in read_metrics(folder)] for folder in (resized, same)]
    assert len(losses[0]) == 9
    print("largest difference", np.abs(np.subtract(losses[0], losses[1])).max())
    np.testing.assert_allclose(losses[0], losses[1], rtol=0, atol=1e-5)
