"""Which way weights travel."""

from __future__ import annotations

import pytest

from raylign.actors.weights.transport import choose_transport


@pytest.mark.parametrize(("num_gpus", "shared_gpu"), [(0, False), (1, True), (8, False)])
def test_on_one_node_weights_go_through_its_memory(num_gpus: int, shared_gpu: bool) -> None:
    assert choose_transport("a", ["a", "a"], num_gpus, shared_gpu) == "shared_memory"
    assert choose_transport("a", [], num_gpus, shared_gpu) == "shared_memory"


def test_between_nodes_with_gpus_they_go_by_nccl() -> None:
    assert choose_transport("a", ["a", "b"], 16, False) == "nccl"
    assert choose_transport("a", ["b", "b"], 16, False) == "nccl"


def test_between_nodes_without_gpus_there_is_no_way_and_the_error_names_the_nodes() -> None:
    with pytest.raises(ValueError, match=r"rank 0 is on node a, engines are on b, c too, and the cluster has no GPUs"):
        choose_transport("a", ["c", "a", "b"], 0, False)


def test_nccl_needs_a_gpu_for_each_side() -> None:
    with pytest.raises(ValueError, match="learner and engine share a GPU"):
        choose_transport("a", ["b"], 1, True)
