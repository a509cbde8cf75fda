"""The process group of the learner ranks.

Given a launcher's process group (Ray Train's), or none; gives rank, world size, device, and the few
reductions that the learner needs.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from raylign.learners.meters.metric import Kind, Metric, PassMetrics, StepMetrics

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


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


def reduce_metrics(metrics: PassMetrics) -> StepMetrics:
    """Of all ranks together, by kind; all ranks must give the same names."""
    import torch
    import torch.distributed as dist

    result: StepMetrics = {}
    operations: tuple[tuple[tuple[Kind, ...], Any], ...] = (
        (("token_sum", "unit_sum", "sum"), dist.ReduceOp.SUM),
        (("maximum",), dist.ReduceOp.MAX),
        (("minimum",), dist.ReduceOp.MIN),
    )
    for kinds, operation in operations:
        names = sorted(name for name in metrics if metrics[name].kind in kinds)
        if names:
            values = torch.stack([metrics[name].value.detach().double() for name in names])
            if dist.get_world_size() > 1:
                dist.all_reduce(values, operation)
            reduced = zip(names, values.tolist(), strict=True)
            result |= {name: Metric(value, metrics[name].kind) for name, value in reduced}
    assert len(result) == len(metrics), "the mean of one rank says nothing of all: give sums"
    return result


def gather_objects(value: T) -> list[T]:
    """`value` of every rank, in rank order, on every rank."""
    import torch.distributed as dist

    if dist.get_world_size() == 1:
        return [value]
    values: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return cast(list[T], values)
