"""One rank of the learner group: the verbs that commands name.

Given a `LearnerSpec`, gives a `Learner` and the sending end of weight updates. All ranks run every verb together.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raylign.actors.learner_group import LearnerSpec
from raylign.learners.algorithms.base import Example
from raylign.learners.algorithms.registry import build_algorithm
from raylign.learners.distributed import rank
from raylign.learners.learner import Learner
from raylign.rollout.weight_buckets import SharedMemorySender


class LearnerRank:
    """A learner and its weight sender."""

    def __init__(self, spec: LearnerSpec) -> None:
        self._learner = Learner(
            spec.config,
            spec.model_path,
            build_algorithm(spec.algorithm),
            spec.temperature,
            spec.total_optimizer_steps,
            spec.seed,
            Path(spec.debug_folder),
        )
        if spec.state_folder is not None:
            self._learner.load_state(Path(spec.state_folder))
        self._sender = SharedMemorySender(spec.weights_bucket_bytes) if rank() == 0 else None

    def update(self, examples: Sequence[Example]) -> dict[str, float]:
        """One batch, this rank's share of it."""
        return self._learner.update(examples)

    def logprobs(self, examples: Sequence[Example]) -> list[Any]:
        """(T,) of each example, on every rank."""
        return self._learner.logprobs(examples)

    def export_weights(self, version: int) -> list[dict[str, Any]]:
        """Bucket descriptions of the current weights (rank 0; the others only take part in gathering)."""
        weights = self._learner.weights()
        if self._sender is not None:
            return self._sender.export(version, weights)
        for _ in weights:
            pass
        return []

    def release_weights(self) -> None:
        """Engines have read the buckets."""
        if self._sender is not None:
            self._sender.release()

    def save(self, folder: str) -> None:
        """The model in Hugging Face format, and resumable state below `state/`."""
        self._learner.save_model(Path(folder))
        self._learner.save_state(Path(folder) / "state")
