"""How weights travel from the learner to the engines: the section `weights`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class WeightsConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """How weights travel from the learner to the engines."""

    transport: Literal["auto", "shared_memory", "gloo", "nccl"] = "auto"
    """From the learner's node to others, where engines read them as those of the learner's node do: gloo by TCP, nccl
    between a GPU of each node. shared_memory: all are on one node, with or without GPUs. auto: by where the roles were
    placed, shared_memory on one node, nccl between nodes that all have GPUs, else gloo."""
    bucket_mib: int = Field(256, ge=1)
    """Weights travel in buckets of this size."""
    deadline_s: float = Field(120, gt=0)
    """How long one phase of an update, or one call of it (about 2 GiB), may take before the update is aborted. Between
    nodes a transfer that stands still for half of it is broken off, and done again with the nodes that answer."""
    lora: Literal["merged", "adapter"] = "adapter"
    """With `learner.lora`: merged sends all weights with the adapters folded in, adapter only the adapters, which
    engines hold beside their own weights."""
    recompute_kv: bool = True
    """Running requests compute keys and values of their earlier tokens again with the new weights; else they keep the
    old ones, which is faster, but then their log-probs are not those of the version that labels them."""
