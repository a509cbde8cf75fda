"""A run on a cluster that Ray's autoscaler grows for it, from no worker at all, and shrinks when nobody needs them.

Given a head whose nodes are raylets of this machine, started and ended by the autoscaler as a cloud's would be.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from raylign.jobs.run.folder import read_metrics
from tests.end_to_end.growing import LABEL, ROLES, Arrivals, growing_cluster, raylet_of
from tests.end_to_end.nodes import Nodes
from tests.end_to_end.processes import WatchedProcess
from tests.end_to_end.test_lost_node import NUM_STEPS, kill_with_all_below, start_run
from tests.end_to_end.trained import check_trained_once
from tests.patience import HANGS_S

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Nodes]:
    with growing_cluster(tmp_path) as cluster:
        yield cluster
    left = [
        each
        for each in psutil.process_iter(["cmdline"])
        if str(cluster.temporary) in " ".join(each.info["cmdline"] or [])
    ]
    assert not left, "the autoscaler's nodes end with the head"


@contextmanager
def running(cluster: Nodes, model: Path, num_steps: int) -> Iterator[tuple[WatchedProcess, Arrivals]]:
    """One rank and one engine; the cluster is watched before they ask for anything."""
    arrivals = Arrivals(cluster)
    assert arrivals.seen[-1]["nodes"] == {"head": 1}
    process = start_run(cluster, model, cluster.folder, num_steps, label=LABEL)
    try:
        yield process, arrivals
    finally:
        process.end()
        print("\n" + "\n".join(map(str, arrivals.seen)))
        arrivals.process.end()


def test_nodes_come_for_a_run_one_is_taken_away_and_all_are_gone_after_it(
    cluster: Nodes, start_model: Path, tmp_path: Path
) -> None:
    with running(cluster, start_model, NUM_STEPS) as (process, arrivals):
        process.wait_for(lambda: len(read_metrics(tmp_path / "run")) >= 30, "step 30")
        kill_with_all_below(raylet_of(cluster, "rollout"))
        assert process.wait() == 0, process.output()
        ended_at = arrivals.seen[-1]["at"]
        arrivals.process.wait_for(lambda: not any(map(arrivals.num_nodes, ROLES)), "no node but the head")
        grew_in_s = {role: arrivals.grew_in_s(role) for role in ROLES}
        shrank_in_s = arrivals.seen[-1]["at"] - ended_at
    print(f"\ndemand to node: {grew_in_s}; all gone {shrank_in_s:.1f} s after the last change of the run")
    check_trained_once(tmp_path / "run", NUM_STEPS)
    assert [len(grew_in_s[role]) for role in ROLES] == [1, 2]  # the second in the place of the one that was taken
    assert max(seconds for each in grew_in_s.values() for seconds in each) <= 30


def test_an_engine_that_joins_brings_a_node_and_takes_it_along_when_it_leaves(
    cluster: Nodes, start_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"

    def steps() -> int:
        return len(read_metrics(folder))

    def scale(engines: int) -> None:
        command = [sys.executable, "-m", "raylign.jobs", "scale", str(folder), "--engines", str(engines)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS_S, check=False)
        assert done.returncode == 0 and done.stdout.splitlines()[-1] == f"{engines} engines serve", done.stdout

    with running(cluster, start_model, 100_000) as (process, arrivals):
        process.wait_for(lambda: steps() >= 10, "step 10")
        scale(2)
        assert arrivals.num_nodes("rollout") == 2
        joined_at = steps()
        process.wait_for(lambda: steps() >= joined_at + 10, "ten steps of two engines")
        scale(1)
        process.wait_for(lambda: arrivals.num_nodes("rollout") == 1, "the node to go")
        left_at = steps()
        process.wait_for(lambda: steps() >= left_at + 10, "ten steps of one engine")
        os.kill(process.pid, signal.SIGINT)
        assert process.wait() == 130, process.output()
    check_trained_once(folder, steps())
