"""The process group of the learner ranks.

Given a launcher's process group (Ray Train's), or none; gives rank, world size, device, and the few
reductions that the learner needs.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def ensure_process_group(deadline_s: float) -> None:
    """Join the launcher's group (RANK, WORLD_SIZE, MASTER_ADDR in the environment), or make a group of one process."""
    import torch
    import torch.distributed as dist

    os.environ.setdefault("LOCAL_RANK", "0")
    if torch.cuda.is_available():
        torch.cuda.set_device(local_device())
    else:
        os.environ["DS_ACCELERATOR"] = "cpu"  # before anything imports DeepSpeed, which else looks for one and warns
    if dist.is_initialized():
        return
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    timeout = timedelta(seconds=deadline_s)
    if "WORLD_SIZE" in os.environ and "MASTER_ADDR" in os.environ:
        dist.init_process_group(backend, timeout=timeout)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=timeout)


def rank() -> int:
    import torch.distributed as dist

    return dist.get_rank()


def world_size() -> int:
    import torch.distributed as dist

    return dist.get_world_size()


def local_device() -> torch.device:
    """This rank's GPU, or the CPU."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def reduce_metrics(metrics: dict[str, torch.Tensor]) -> dict[str, float]:
    """Sums (keys ending in `/sum` or `/unit_sum`), maxima (`/max`) and minima (`/min`) over the ranks, which must all
    give the same keys."""
    import torch
    import torch.distributed as dist

    result: dict[str, float] = {}
    operations = (
        (("/sum", "/unit_sum"), dist.ReduceOp.SUM),
        (("/max",), dist.ReduceOp.MAX),
        (("/min",), dist.ReduceOp.MIN),
    )
    for suffixes, operation in operations:
        keys = sorted(key for key in metrics if key.endswith(suffixes))
        if keys:
            values = torch.stack([metrics[key].detach().double() for key in keys])
            if dist.get_world_size() > 1:
                dist.all_reduce(values, operation)
            result.update(zip(keys, values.tolist(), strict=True))
    return result


def gather_objects(value: Any) -> list[Any]:
    """`value` of every rank, in rank order, on every rank."""
    import torch.distributed as dist

    if dist.get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
