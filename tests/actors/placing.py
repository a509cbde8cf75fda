"""Places ranks and engines in a cluster again and again; a program, since a process talks to one Ray only.

Given the cluster's address and how often; prints as JSON, for each time, on how many nodes the ranks lay, on how many
the engines, and on how many both, and at last the labels of the node that was chosen by label:
    python placing.py 127.0.0.1:6379 20
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from raylign.actors.cluster import ClusterConfig, ray_cluster
from raylign.actors.placement import node_of
from raylign.jobs.run.roles import place_engines


async def place_all() -> list[int]:
    """Eight ranks as Ray Train places them, then four engines of two GPUs."""
    from ray.util import placement_group, placement_group_table, remove_placement_group

    ranks = placement_group([{"CPU": 1, "GPU": 1}] * 8, strategy="PACK")
    await ranks.ready()
    engines = await place_engines(4, 1.0, 2.0, 600.0, {})
    of_ranks = set(placement_group_table(ranks)["bundles_to_node_id"].values())
    of_engines = set(map(node_of, engines))
    for group in (ranks, *engines):
        remove_placement_group(group)
    return [len(of_ranks), len(of_engines), len(of_ranks & of_engines)]


async def place_by_label() -> list[dict[str, Any]]:
    """Two engines on nodes that may be taken away."""
    import ray

    chosen = set(map(node_of, await place_engines(2, 1.0, 2.0, 600.0, {"market-type": "spot"})))
    return [node["Labels"] for node in ray.nodes() if node["NodeID"] in chosen]


async def main(num_rounds: int) -> None:
    """All of it."""
    rounds = [await place_all() for _ in range(num_rounds)]
    print(json.dumps({"rounds": rounds, "labels": await place_by_label()}))


if __name__ == "__main__":
    with ray_cluster(ClusterConfig(address=sys.argv[1])):
        asyncio.run(main(int(sys.argv[2])))
