"""Which way weights travel, from where roles were placed: one or two nodes × CPU, GPUs, one GPU shared by turns."""

from __future__ import annotations

import pytest

from raylign.actors.weights.transport import choose_transport, way_of_weights

CPU = {"a": 0, "b": 0}
GPUS = {"a": 8, "b": 8}
ONE_GPU = {"a": 1, "b": 0}


@pytest.mark.parametrize("num_gpus", [CPU, GPUS, ONE_GPU])
@pytest.mark.parametrize("configured", ["auto", "shared_memory", "gloo", "nccl"])
def test_on_one_node_weights_go_through_its_memory(num_gpus: dict[str, int], configured: str) -> None:
    """Whatever other nodes the cluster has, and whatever would bring weights to them."""
    assert choose_transport("a", ["a", "a"], num_gpus) == "shared_memory"
    assert way_of_weights(configured, "a", ["a"], num_gpus) == "shared_memory"
    assert way_of_weights(configured, "a", [], num_gpus) == "shared_memory"


@pytest.mark.parametrize(
    ("num_gpus", "engines", "expected"),
    [
        (CPU, ["b", "b"], "gloo"),
        (CPU, ["a", "b"], "gloo"),
        (GPUS, ["b"], "nccl"),
        (GPUS, ["a", "b"], "nccl"),
        (ONE_GPU, ["b"], "gloo"),  # engine on the CPUs of another node
    ],
)
def test_between_nodes_they_go_by_nccl_where_each_has_a_gpu(
    num_gpus: dict[str, int], engines: list[str], expected: str
) -> None:
    assert choose_transport("a", engines, num_gpus) == way_of_weights("auto", "a", engines, num_gpus) == expected
    assert way_of_weights("gloo", "a", engines, num_gpus) == "gloo"


def test_what_cannot_reach_every_engine_is_refused_with_the_nodes() -> None:
    with pytest.raises(ValueError, match="is shared_memory, but learner rank 0 is on node a, engines are on b too"):
        way_of_weights("shared_memory", "a", ["a", "b"], GPUS)
    with pytest.raises(ValueError, match=r"is nccl, but .*, and b has no GPU: use auto or gloo"):
        way_of_weights("nccl", "a", ["b"], ONE_GPU)
    assert way_of_weights("nccl", "a", ["b"], GPUS) == "nccl"
