"""Room for the roles of a run: what is said where there is none, and where ranks and engines come to lie."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import pytest

from raylign.actors.cluster import ClusterConfig, ray_cluster
from raylign.actors.placement import PlacementError, missing_resources, node_of, release, reserve
from raylign.jobs.run.roles import asks_for_gpus
from tests.end_to_end.nodes import nodes
from tests.patience import finished


def test_what_is_short_is_named_with_what_is_free() -> None:
    assert missing_resources({"CPU": 2, "GPU": 1}, {"CPU": 0.5, "GPU": 1}) == "CPU (wants 2, free 0.5)"
    assert missing_resources({"CPU": 1}, {"CPU": 1}) == "nothing on any single node big enough"


@pytest.mark.ray
def test_a_role_without_room_is_named_with_resources_labels_and_the_nodes_that_are_there() -> None:
    async def test() -> None:
        started_at = time.monotonic()
        with pytest.raises(PlacementError) as raised:
            await reserve("rollout worker 3", {"CPU": 1, "GPU": 2}, 2.0, {"market-type": "spot"})
        assert time.monotonic() - started_at >= 2
        words = str(raised.value)
        assert "no room for rollout worker 3 in time (cluster.placement_deadline_s)" in words
        assert "it needs CPU 1, GPU 2 on nodes with market-type: spot; short of GPU (wants 2, free 0)" in words
        assert "Nodes that are there: 1 x CPU 2." in words
        room = await reserve("rollout worker 0", {"CPU": 1}, 60.0)
        assert node_of(room)
        release([room])  # this Ray may be that of other tests
        assert not asks_for_gpus(ClusterConfig())
        assert asks_for_gpus(ClusterConfig(gpus="always"))

    with ray_cluster(ClusterConfig(address="local", num_cpus=2, object_store_mib=80)):
        asyncio.run(test())


@pytest.mark.ray
@pytest.mark.slow
def test_ranks_come_to_lie_on_one_node_and_each_engine_on_one(tmp_path: Path) -> None:
    """Two nodes with eight logical GPUs, twenty times; and engines that choose their node by label."""
    each = ["--num-cpus=12", "--num-gpus=8"]
    with nodes(tmp_path, [each, [*each, "--labels=market-type=spot"]]) as cluster:
        words = [sys.executable, str(Path(__file__).parent / "placing.py"), cluster.address, "20"]
        done = finished(words, tmp_path, cluster.environment, others=cluster.pids)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["rounds"] == [[1, 1, 0]] * 20
    (labels,) = found["labels"]
    assert labels["market-type"] == "spot"
