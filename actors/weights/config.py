"""How weights travel from the learner to the engines: the section `weights`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class WeightsConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """How weights travel from the learner to the engines."""

    transport: Literal["auto", "shared_memory", "ipc", "nccl"] = "auto"
    """shared_memory: through the memory of the one node that learner and engines share, with or without GPUs; nccl:
    between GPUs of any nodes; ipc: engine and learner on the same GPUs. auto: shared_memory in a cluster of one node,
    nccl in one of several nodes with GPUs; several nodes without GPUs are refused."""
    bucket_mib: int = Field(256, ge=1)
    """Weights travel in buckets of this size."""
    deadline_s: float = Field(120, gt=0)
    """How long one phase of an update, or one call of it (about 2 GiB), may take before the update is aborted."""
    lora: Literal["merged", "adapter"] = "adapter"
    """With `learner.lora`: merged sends all weights with the adapters folded in, adapter only the adapters, which
    engines hold beside their own weights."""
    recompute_kv: bool = True
    """Running requests compute keys and values of their earlier tokens again with the new weights; else they keep the
    old ones, which is faster, but then their log-probs are not those of the version that labels them."""
