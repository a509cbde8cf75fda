"""Which inference engine a rollout worker hosts.

Given an engine's config and what the run adds to it; gives a `RolloutEngine`. Another engine is a choice in the config
and a branch here: nobody else names one.
"""

from __future__ import annotations

from raylign.rollout.engine.base import RolloutEngine
from raylign.rollout.engine.config import EngineConfig


def build_engine(
    model_path: str, config: EngineConfig, *, weight_backend: str | None, seed: int, sleeps: bool, lora_rank: int
) -> RolloutEngine:
    """Not started. The arguments are those of `VllmEngine`."""
    from raylign.rollout.engine.vllm_engine import VllmEngine

    return VllmEngine(model_path, config, weight_backend=weight_backend, seed=seed, sleeps=sleeps, lora_rank=lora_rank)
