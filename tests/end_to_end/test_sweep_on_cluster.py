"""A sweep on a Ray cluster that is there: its room is counted, its commands join it, and a Ctrl-C is gone on from.

Given a head of two CPUs on this machine; each run takes one, so two are at work side by side and the others wait.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from raylign.jobs.run.folder import read_metrics
from raylign.jobs.sweep.manifest import read_manifest
from raylign.jobs.sweep.room import Room
from tests.end_to_end.conftest import TRAIN, small_config, write_recipe
from tests.end_to_end.nodes import Nodes, nodes
from tests.end_to_end.processes import WatchedProcess

pytestmark = [pytest.mark.ray, pytest.mark.slow]
NUM_STEPS = 60


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Nodes]:
    with nodes(tmp_path, [["--num-cpus=2"]]) as cluster:
        yield cluster


def sweep_file(model: Path, tmp_path: Path) -> Path:
    """Three seeds of sft, and a sample of what one of them learned."""
    values = small_config(model, tmp_path / "unused", num_steps=NUM_STEPS, algorithm={"name": "sft"})
    values.pop("folder"), values.pop("name"), values.pop("async")
    recipe = write_recipe(values, tmp_path / "sft.yaml")
    sample = {"data.source": TRAIN["source"], "data.num_generated": 20, "data.prompt": TRAIN["prompt"],
              "data.template": "{prompt}", "num_prompts": 4, "sampling.max_tokens": 4, "engine.max_model_len": 32,
              "engine.kv_cache_gib": 0.1, "model": "{run}"}  # fmt: skip
    sweep: dict[str, Any] = {
        "name": "study",
        "folder": str(tmp_path / "study"),
        "tasks": {
            "S": {"config": [str(recipe)], "grid": {"seed": [1, 2, 3]}},
            "A": {
                "config": [str(recipe)],
                "set": {"num_steps": 2},
                "then": [{"name": "SAMPLE", "command": "sample", "set": sample}],
            },
        },
    }
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(sweep))
    return path


def start(cluster: Nodes, words: list[str], log: Path) -> WatchedProcess:
    environment = cluster.environment | {"RAY_ADDRESS": cluster.address}
    return WatchedProcess([sys.executable, "-m", "raylign.jobs", *words], log, environment, cluster.pids)


def test_a_sweep_fills_a_cluster_and_goes_on_after_ctrl_c(head: Nodes, start_model: Path, tmp_path: Path) -> None:
    words = ["sweep", "--config", str(sweep_file(start_model, tmp_path))]
    study = tmp_path / "study"
    process = start(head, words, tmp_path / "first.log")
    try:
        process.wait_for(lambda: at_work(study) >= 2, "two runs that train")
        said = process.output()
        assert said.count(": running") == 2 and ": done" not in said, "no third one beside two on two CPUs"
        assert not any("raylet" in title for title in own_titles(process, head)), "no cluster of its own"
        os.kill(process.pid, signal.SIGINT)
        assert process.wait() == 130, process.output()
    finally:
        process.end()
    assert "stopping 2 commands" in process.output() and process.output().count(": stopped") == 2
    again = start(head, words, tmp_path / "second.log")
    try:
        assert again.wait() == 0, again.output()
    finally:
        again.end()
    runs = [one.run for one in read_manifest(study)]
    assert [len(read_metrics(run.folder)) for run in runs if run.task == "S"] == [NUM_STEPS] * 3
    assert len(list((study / "A_model_data_SAMPLE").glob("answers.jsonl"))) == 1
    states = json.loads((study / "sweep.progress.json").read_text())
    assert {state.split()[0] for state in states.values()} == {"done"} and len(states) == 5
    assert [one.resources.cores for one in read_manifest(study)] == [1] * 5
    assert (study / "sweep.md").read_text().count("\n") == 2 + 4


def at_work(study: Path) -> int:
    return sum(bool(read_metrics(folder)) for folder in study.iterdir() if folder.is_dir()) if study.is_dir() else 0


def own_titles(process: WatchedProcess, cluster: Nodes) -> set[str]:
    theirs = {title for node in cluster.processes for title in node.titles()}
    return process.titles() - theirs


def test_the_room_of_a_cluster_is_what_it_has_and_nobody_at_an_address_is_one_line(
    head: Nodes, tmp_path: Path, start_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, head.environment[name])
    script = f"from raylign.jobs.sweep.room import Room\nprint(Room.of_cluster({head.address!r}))"
    process = WatchedProcess([sys.executable, "-c", script], tmp_path / "room.log", head.environment)
    try:
        assert process.wait() == 0, process.output()
    finally:
        process.end()
    assert "cores=[0, 1], gpus=[]" in process.output() and "is_here=False" in process.output()
    with pytest.raises(ValueError, match="no Ray answers there"):
        Room.of_cluster("127.0.0.1:9")
