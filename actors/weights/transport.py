"""Which way weights travel, from where learner and engines are.

Given the nodes of learner rank 0 and of every engine; gives a transport of `WeightsConfig`, or an error that says why
there is none.
"""

from __future__ import annotations

from collections.abc import Sequence


def choose_transport(learner_node: str, engine_nodes: Sequence[str], num_gpus: int, shared_gpu: bool) -> str:
    """shared_memory where all are on one node, nccl between nodes with GPUs. `num_gpus`: of the whole cluster;
    `shared_gpu`: learner and engine take turns on one, and NCCL wants one for each."""
    elsewhere = sorted(set(engine_nodes) - {learner_node})
    if not elsewhere:
        return "shared_memory"
    where = f"learner rank 0 is on node {learner_node}, engines are on {', '.join(elsewhere)} too"
    if num_gpus == 0:
        raise ValueError(
            f"{where}, and the cluster has no GPUs: without them weights only travel through one node's memory; "
            "start fewer engines (rollout.num_engines) or a node large enough for all"
        )
    if shared_gpu:
        raise ValueError(
            f"{where}, and learner and engine share a GPU: weights travel between nodes by NCCL, which needs a GPU for "
            "each; put both on one node or give each a GPU of its own"
        )
    return "nccl"
