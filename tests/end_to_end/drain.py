"""Tells Ray to drain the node with a role, as an autoscaler does before it takes a spot node away.

Given the cluster's address, the role in the node's labels and the seconds that are left; prints the draining nodes, as
our own code sees them:
    python drain.py 127.0.0.1:6379 rollout 60
"""

from __future__ import annotations

import sys
import time
from typing import Any

PREEMPTION = 2
"""Of Ray's DrainNodeReason."""


def main(address: str, role: str, left_s: float) -> None:
    import ray
    from ray import _raylet

    from raylign.actors.drain_notice import draining_nodes

    ray.init(address, log_to_driver=False)
    (node,) = (each["NodeID"] for each in ray.nodes() if each["Alive"] and each["Labels"].get("role") == role)
    deadline_ms = int(1e3 * (time.time() + left_s))
    module: Any = _raylet  # without types
    print(module.GcsClient(address=address).drain_node(node, PREEMPTION, "a test", deadline_ms))
    print(draining_nodes())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
