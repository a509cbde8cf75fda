"""An engine that joins a run on another node than all others, and leaves it again.

Given a node that rank and engine fill, and one that comes later; checks each token against the version that labels it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raylign.jobs.run.folder import read_metrics
from tests.end_to_end.conftest import small_config, write_recipe
from tests.end_to_end.nodes import nodes
from tests.end_to_end.processes import WatchedProcess
from tests.end_to_end.test_two_nodes import groups_of, running, worst_difference
from tests.end_to_end.trained import check_trained_once
from tests.patience import HANGS_S

pytestmark = [pytest.mark.ray, pytest.mark.slow]
MODELS = ["--labels", "role=models"]


def scale(folder: Path, engines: int) -> None:
    command = [sys.executable, "-m", "raylign.jobs", "scale", str(folder), "--engines", str(engines)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS_S, check=False)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == f"{engines} engines serve", done.stdout


def test_an_engine_joins_on_another_node_and_leaves_it(start_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    values = small_config(start_model, folder, num_steps=100_000, checkpoints={"every_steps": 1, "keep_last": 999})
    values["async"] = {"max_staleness": 2}
    values["sampling"] |= {"temperature": 1.0, "max_tokens": 8}
    values["cluster"] = {"labels": {role: {"role": "models"} for role in ("learner", "rollout")}}
    recipe = write_recipe(values, tmp_path / "recipe.yaml")

    def steps() -> int:
        return len(read_metrics(folder))

    with nodes(tmp_path, [["--num-cpus=1"]]) as cluster:  # whose CPU is for no role, and makes it one for each
        cluster.join("--num-cpus=2", *MODELS)
        words = [sys.executable, "-m", "raylign.jobs", "train", "--config", str(recipe)]
        environment = cluster.environment | {"RAY_ADDRESS": cluster.address}
        process = WatchedProcess(words, tmp_path / "log", environment, cluster.pids)
        try:
            process.wait_for(lambda: steps() >= 10, "step 10")
            assert not running(cluster, "ray::Courier"), "on one node nothing travels"
            there = cluster.join("--num-cpus=1", *MODELS)
            scale(folder, 2)
            assert any("VLLM::EngineCore" in title for title in there.titles())
            joined_at = steps()
            process.wait_for(lambda: steps() >= joined_at + 10, "ten steps of two engines")
            scale(folder, 1)
            left_at = steps()
            process.wait_for(lambda: steps() >= left_at + 10, "ten steps of one engine")
            left_there = [title for title in there.titles() if "VLLM::" in title or "ray::Courier" in title]
            os.kill(process.pid, signal.SIGINT)
            assert process.wait() == 130, process.output()
        finally:
            process.end()
            print(f"\n{process.output()}")
    assert not left_there
    lines = read_metrics(folder)
    check_trained_once(folder, len(lines))
    assert sum(line["rollout/reissued_prompts"] + line["rollout/aborted_groups"] for line in lines) == 0
    assert all(line["weights/travel_s"] > 0.001 for line in lines[joined_at + 1 : joined_at + 9])
    groups = groups_of(folder / "experience")
    worst, versions = worst_difference(groups, folder, start_model)
    print(f"\n{len(groups)} groups of versions up to {max(versions)}: at most {worst:.1e} from the learner")
    assert len(versions) > 20
    assert worst <= 1e-5
