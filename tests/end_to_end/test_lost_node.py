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
from tests.end_to_end.trained import check_trained_once
from tests.patience import finished

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


def kill_with_all_below(node: psutil.Process) -> None:
    """As a machine that loses its power."""
    for process in [node, *node.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def start_run(
    cluster: Nodes, model: Path, folder: Path, num_steps: int = NUM_STEPS, label: str = "role"
) -> WatchedProcess:
    """One rank and one engine, η = 2, on the nodes of their roles by this label."""
    values = small_config(model, folder / "run", num_steps=num_steps, checkpoints={"every_steps": 20})
    values["async"] = {"max_staleness": 2}
    values["weights"] = {"deadline_s": 30}
    values["cluster"] = {"labels": {each: {label: each} for each in ROLES}}
    recipe = write_recipe(values, folder / "recipe.yaml")
    words = [*cluster.within, sys.executable, "-m", "raylign.jobs", "train", "--config", str(recipe)]
    return WatchedProcess(words, folder / "log", cluster.environment | {"RAY_ADDRESS": cluster.address}, cluster.pids)


@pytest.mark.parametrize(("role", "waited_for"), [("learner", "1 learner ranks"), ("rollout", "rollout worker 0")])
def test_a_run_outlives_a_node(
    three_nodes: tuple[Nodes, dict[str, WatchedProcess]], start_model: Path, tmp_path: Path, role: str, waited_for: str
) -> None:
    cluster, by_role = three_nodes
    process = start_run(cluster, start_model, tmp_path)
    try:
        process.wait_for(lambda: len(read_metrics(tmp_path / "run")) >= 30, "step 30")
        kill_with_all_below(psutil.Process(by_role[role].pid))
        process.wait_for(
            lambda: f"waiting for room for {waited_for}" in process.output(), "the word of what is missing"
        )
        cluster.join(*node_of_role(role))
        assert process.wait() == 0, process.output()
    finally:
        process.end()
    check_trained_once(tmp_path / "run", NUM_STEPS)


def test_an_engine_leaves_a_node_that_is_drained_before_it_is_taken_away(
    three_nodes: tuple[Nodes, dict[str, WatchedProcess]], start_model: Path, tmp_path: Path
) -> None:
    cluster, by_role = three_nodes
    num_steps = 600  # the word to Ray takes a process of its own
    process = start_run(cluster, start_model, tmp_path, num_steps)
    try:
        process.wait_for(lambda: len(read_metrics(tmp_path / "run")) >= 30, "step 30")
        words = [sys.executable, str(Path(__file__).parent / "drain.py"), cluster.address, "rollout", "60"]
        told = finished(words, tmp_path, cluster.environment, others=cluster.pids)
        assert told.returncode == 0 and "True" in told.stdout, told.stdout + told.stderr
        print(told.stdout)
        left = "rollout worker 0 hands back what it has, before its node is taken away"
        process.wait_for(lambda: left in process.output(), "the engine to leave")
        assert "it gets no more prompts" in process.output()
        kill_with_all_below(psutil.Process(by_role["rollout"].pid))
        cluster.join(*node_of_role("rollout"))
        assert process.wait() == 0, process.output()
    finally:
        process.end()
    check_trained_once(tmp_path / "run", num_steps)
    assert "groups outstanding" not in process.output()  # none was lost with the node
