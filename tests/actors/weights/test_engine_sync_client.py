"""What vLLM's trainer side tells the engines, worked out by hand."""

from __future__ import annotations

from raylign.actors.weights.engine_sync_client import init_info_of_each


def test_with_nccl_every_gpu_of_every_engine_has_a_rank_of_its_own() -> None:
    # rank 0 is the learner; two engines of two GPUs are ranks 1, 2 and 3, 4
    infos = init_info_of_each({"rank_offset": 1, "world_size": 5}, num_engines=2, gpus_per_engine=2)
    assert infos == [{"rank_offset": 1, "world_size": 5}, {"rank_offset": 3, "world_size": 5}]


def test_ipc_has_no_ranks() -> None:
    assert init_info_of_each({"packed": True}, num_engines=2, gpus_per_engine=1) == [{"packed": True}] * 2
