"""A whole node is lost in the middle of a run, with a rank or with an engine: the run says what it waits for, and goes
on as soon as another node has room.

Given raylets on this machine, one for the driver, one for the learner, one for the engine.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from raylign.jobs.run.folder import read_metrics
from tests.end_to_end.conftest import small_config, write_recipe
from tests.end_to_end.nodes import Nodes, nodes
from tests.end_to_end.processes import WatchedProcess

pytestmark = [pytest.mark.ray, pytest.mark.slow]
NUM_STEPS = 200
ROLES = ("learner", "rollout")


def node_of_role(role: str) -> list[str]:
    return ["--num-cpus=2", "--labels", f"role={role}"]


@pytest.fixture
def three_nodes(tmp_path: Path) -> Iterator[tuple[Nodes, dict[str, WatchedProcess]]]:
    """By role."""
    with nodes(tmp_path, [["--num-cpus=0"]]) as cluster:
        yield cluster, {role: cluster.join(*node_of_role(role)) for role in ROLES}


def kill_node(node: WatchedProcess) -> None:
    """SIGKILL to the raylet and to all below it, as a machine that loses its power."""
    for process in [psutil.Process(node.pid), *node.alive()]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.mark.parametrize(("role", "waited_for"), [("learner", "1 learner ranks"), ("rollout", "rollout worker 0")])
def test_a_run_outlives_a_node(
    three_nodes: tuple[Nodes, dict[str, WatchedProcess]], start_model: Path, tmp_path: Path, role: str, waited_for: str
) -> None:
    cluster, by_role = three_nodes
    values = small_config(start_model, tmp_path / "run", num_steps=NUM_STEPS, checkpoints={"every_steps": 20})
    values["async"] = {"max_staleness": 2}
    values["weights"] = {"deadline_s": 30}
    values["cluster"] = {"labels": {each: {"role": each} for each in ROLES}}
    recipe = write_recipe(values, tmp_path / "recipe.yaml")
    words = [sys.executable, "-m", "raylign.jobs", "train", "--config", str(recipe)]
    process = WatchedProcess(
        words, tmp_path / "log", cluster.environment | {"RAY_ADDRESS": cluster.address}, cluster.pids
    )
    try:
        process.wait_for(lambda: len(read_metrics(tmp_path / "run")) >= 30, "step 30")
        kill_node(by_role[role])
        process.wait_for(
            lambda: f"waiting for room for {waited_for}" in process.output(), "the word of what is missing"
        )
        cluster.join(*node_of_role(role))
        assert process.wait() == 0, process.output()
    finally:
        process.end()
    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, NUM_STEPS + 1))
    assert max(line["staleness/max"] for line in lines) <= 2
