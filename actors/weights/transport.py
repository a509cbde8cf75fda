"""Which way weights travel, from where learner and engines were placed.

Given the nodes of learner rank 0 and of every engine, and how many GPUs each node has; gives a transport of
`WeightsConfig`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal


def choose_transport(
    learner_node: str, engine_nodes: Sequence[str], num_gpus: Mapping[str, int]
) -> Literal["shared_memory", "gloo", "nccl"]:
    """shared_memory where all are on one node, also where learner and engine share its GPU; between nodes nccl where
    each of them has a GPU, else gloo. `num_gpus`: by node."""
    nodes = {learner_node, *engine_nodes}
    if len(nodes) == 1:
        return "shared_memory"
    return "nccl" if all(num_gpus.get(node, 0) for node in nodes) else "gloo"


def way_of_weights(
    configured: str, learner_node: str, engine_nodes: Sequence[str], num_gpus: Mapping[str, int]
) -> Literal["shared_memory", "gloo", "nccl"]:
    """What the configured transport means here; one that cannot reach every engine from where it was placed is
    refused. On one node nothing travels, whichever is configured."""
    best = choose_transport(learner_node, engine_nodes, num_gpus)
    if configured == "auto" or best == "shared_memory":
        return best
    if configured == "gloo":
        return "gloo"
    elsewhere = sorted(set(engine_nodes) - {learner_node})
    where = f"learner rank 0 is on node {learner_node}, engines are on {', '.join(elsewhere)} too"
    if configured == "shared_memory":
        raise ValueError(f"weights.transport is shared_memory, but {where}: use auto, or fewer engines")
    without = sorted(node for node in {learner_node, *elsewhere} if not num_gpus.get(node, 0))
    if without:
        raise ValueError(
            f"weights.transport is nccl, but {where}, and {', '.join(without)} has no GPU: use auto or gloo"
        )
    return "nccl"
