"""The rollout engine: vLLM's AsyncLLM behind a few verbs.

Given prompts and a `SamplingConfig`, gives `Group`s as they finish. Weight updates follow vLLM's own protocol.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

from pydantic import BaseModel, Field

from raylign.rollout.sample import Group, Prompt
from raylign.rollout.sampling import SamplingConfig


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
    """Cores the engine's threads are bound to on CPU (`0`, `0-1`), or auto."""
    start_deadline_s: float = Field(300, gt=0)
    """How long the engine may take to start."""


class RolloutEngine(Protocol):
    """What every engine can do. `VllmEngine` is the real one, `FakeEngine` the deterministic one of unit tests."""

    async def start(self) -> None:
        """Load the model; return when ready to generate."""

    async def generate(self, prompt: Prompt, sampling: SamplingConfig, seed: int | None) -> Group:
        """All completions of one prompt. An engine failure comes back as `Group.failures`, with no completions."""

    async def pause(self) -> None:
        """Freeze running requests where they are; new ones queue."""

    async def resume(self) -> None:
        """Go on."""

    async def init_weight_transfer(self, init_info: dict[str, Any]) -> None:
        """Connect to the trainer's side of the transport."""

    async def start_weight_update(self) -> None: ...

    async def update_weights(self, update_info: dict[str, Any]) -> None: ...

    async def finish_weight_update(self, version: int) -> None: ...

    async def weight_checksum(self) -> str:
        """One digest over all weights that the engine holds."""

    async def reset_prefix_cache(self) -> None: ...

    async def stop(self) -> None:
        """End the engine and its processes."""
