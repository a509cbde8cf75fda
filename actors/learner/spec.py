"""All that a learner rank needs to build its learner, in one value that travels to every rank."""

from __future__ import annotations

from dataclasses import dataclass

from raylign.learners.algorithms.facts import RunRows
from raylign.learners.algorithms.registry import AlgorithmConfig
from raylign.learners.engines.config import LearnerConfig


@dataclass(frozen=True)
class LearnerSpec:
    """All that a rank needs to build its learner."""

    config: LearnerConfig
    model_path: str
    algorithm: AlgorithmConfig
    temperature: float
    total_optimizer_steps: int
    seed: int
    debug_folder: str
    state_folder: str | None = None
    """Resumable state to start from."""
    max_staleness: int = 0
    """The bound that the learner holds every token of an update to."""
    cpu_cores: tuple[int, ...] = ()
    """Cores that all ranks of this machine share; empty: those that Ray gives them."""
    rows: RunRows | None = None
    """Of the run, for algorithms that learn something about each row."""
    reference_cache: str = ""
    """Folder that keeps log-probs of the reference on rows; empty: none."""
    weights_bucket_bytes: int = 256 << 20
    ships_adapters: bool = False
    """Weight updates hold the adapters alone (weights.lora = adapter)."""
