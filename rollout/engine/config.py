"""The configuration of one inference engine.

Given nothing heavy: configs that compose it import neither torch nor vLLM.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class EngineConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """One inference engine."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Weights and activations; auto: float32 on CPU, bfloat16 on GPU."""
    max_model_len: int = Field(512, ge=2)
    """Longest prompt plus completion, in tokens."""
    max_num_seqs: int = Field(256, ge=1)
    """Completions decoded side by side in one engine."""
    kv_cache_gib: float = Field(0.5, gt=0)
    """Memory for keys and values on CPU, in GiB."""
    gpu_memory_utilization: float = Field(0.85, gt=0, le=1)
    """Share of GPU memory given to one engine."""
    tensor_parallel_size: int = Field(1, ge=1)
    """GPUs for one engine."""
    cpu_cores: str = "auto"
    """Cores that the threads of engines are bound to on CPU (`0`, `0-1`). auto: where the learner trains at the same
    time, engines share half of the cores and it has the others; else engines share all, and a single one leaves one
    free."""
    start_deadline_s: float = Field(300, gt=0)
    """How long the engine may take to start."""
    silence_deadline_s: float = Field(15, gt=0)
    """An engine of a training run that has given no sign of life for so long between two weight updates, be it stopped
    or stuck, is taken for dead and replaced. More than one step of its decoding may take."""
