"""A cluster that grows by itself: a head without CPUs, and Ray's autoscaler, whose nodes are raylets of this machine.

Given the node types of `cluster.yaml`, of one CPU each; gives the cluster, and when its nodes came and went. The nodes
that the autoscaler starts are processes below the head's, and end with it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.end_to_end.nodes import Nodes, free_ports, nodes
from tests.end_to_end.processes import WatchedProcess

CLUSTER_YAML = Path(__file__).parents[2] / "cluster.yaml"
HEAD_ID, HEAD_TYPE = 51 * "f" + "00000", "ray.head.default"
"""Of Ray's provider, fixed."""
LABEL = "raylign-node"
ROLES = ("learner", "rollout")
IDLE_MINUTES = 0.25
"""Of a node without work, until it is taken away."""


@contextmanager
def growing_cluster(folder: Path) -> Iterator[Nodes]:
    """No worker is there yet."""
    port, metrics_port = free_ports(2)
    config = folder / "autoscaling.yaml"
    config.write_text(yaml.safe_dump(autoscaling(f"127.0.0.1:{port}")))
    extra = {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",  # as `ray up` and KubeRay do
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
        "AUTOSCALER_METRIC_PORT": str(metrics_port),
    }
    with nodes(folder, [["--num-cpus=0", f"--autoscaling-config={config}"]], extra, port=port) as cluster:
        yield cluster


def autoscaling(gcs_address: str) -> dict[str, Any]:
    """`cluster.yaml`, with this machine as the cloud."""
    config = yaml.safe_load(CLUSTER_YAML.read_text())
    types = {name: config["available_node_types"][name] for name in ROLES}
    for each in types.values():
        each |= {"node_config": {}, "resources": {"CPU": 1, "object_store_memory": 100_000_000}}
    types[HEAD_TYPE] = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    provider = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "gcs_address": gcs_address,
        "head_node_id": HEAD_ID,
        "launch_multiple": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    }
    kept = {key: config[key] for key in ("cluster_name", "max_workers", "upscaling_speed")}
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return kept | {
        **{f"{name}_commands": [] for name in commands},
        "cluster_synced_files": [],
        "file_mounts": {},
        "idle_timeout_minutes": IDLE_MINUTES,
        "provider": provider,
        "available_node_types": types,
        "head_node_type": HEAD_TYPE,
    }


class Arrivals:
    """What `arrivals.py` says, as a process beside the run."""

    def __init__(self, cluster: Nodes) -> None:
        words = [sys.executable, str(Path(__file__).parent / "arrivals.py"), cluster.address, LABEL]
        self.process = WatchedProcess(words, cluster.folder / "arrivals.log", cluster.environment, cluster.pids)
        self.process.wait_for(lambda: bool(self.seen), "a first look at the cluster")

    @property
    def seen(self) -> list[dict[str, Any]]:
        """One for each change, in order: `at` (seconds), `nodes` (number by label), `asked` (rooms not yet given)."""
        lines = self.process.output().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]

    def num_nodes(self, role: str) -> int:
        """Now."""
        return int(self.seen[-1]["nodes"].get(role, 0))

    def grew_in_s(self, role: str) -> list[float]:
        """For each node of the role that came: seconds since there was first somebody without room."""
        found, asked_at, before = [], None, 0
        for each in self.seen:
            now = each["nodes"].get(role, 0)
            asked = any((name.startswith("rollout")) == (role == "rollout") for name in each["asked"])
            if asked and asked_at is None:
                asked_at = each["at"]
            if now > before and asked_at is not None:
                found.append(each["at"] - asked_at)
            if not asked or now > before:
                asked_at = None
            before = now
        return found


def raylet_of(cluster: Nodes, role: str) -> psutil.Process:
    """Of the latest node of a role that the autoscaler started."""
    label = json.dumps({LABEL: role})[1:-1]
    found = [
        each
        for each in cluster.processes[0].alive()
        if each.name() == "raylet" and any(word.startswith("--labels=") and label in word for word in each.cmdline())
    ]
    return max(found, key=lambda each: each.create_time())
