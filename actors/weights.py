"""Weight updates as checked transactions: prepare → transfer → verify → commit → resume.

Given the learner group and the rollout workers; gives either all workers on the new version, or an error that says which side failed.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class WeightsConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """How weights travel from the learner to the engines."""

    transport: Literal["auto", "shared_memory", "ipc", "nccl"] = "auto"
    """auto: shared_memory on CPU; on GPUs ipc where engine and learner share a device, else nccl."""
    bucket_mib: int = Field(256, ge=1)
    """Weights travel in buckets of this size."""
    deadline_s: float = Field(120, gt=0)
    """How long one update may take before it is aborted."""
