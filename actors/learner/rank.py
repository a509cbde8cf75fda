"""One rank of the learner group: a learner that also sends its weights.

Given a `LearnerSpec`; gives the verbs that commands name. All ranks run every verb together.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylign.actors.learner.spec import LearnerSpec
from raylign.learners.engines.distributed import rank
from raylign.learners.learner import Learner
from raylign.learners.model import export
from raylign.rollout.weights.buckets import BucketInfo, SharedMemorySender

if TYPE_CHECKING:
    import torch


class LearnerRank(Learner):
    """Implements `RankVerbs`, most as the `Learner` that it is: no layer lies between a command and its work."""

    def __init__(self, spec: LearnerSpec) -> None:
        if cores := set(spec.cpu_cores) & os.sched_getaffinity(0):
            os.sched_setaffinity(0, cores)  # before torch starts its threads, which inherit it
        super().__init__(
            spec.config,
            spec.model_path,
            spec.algorithm.build_objective(spec.max_staleness, spec.rows),
            spec.temperature,
            spec.total_optimizer_steps,
            spec.seed,
            Path(spec.debug_folder),
            spec.max_staleness,
            Path(spec.reference_cache) if spec.reference_cache else None,
        )
        if spec.state_folder is not None:
            self.load_state(Path(spec.state_folder))
        self._spec = spec
        self._sender = SharedMemorySender(spec.weights_bucket_bytes) if rank() == 0 else None

    def ready(self) -> None:
        """It is, once `__init__` has ended."""

    def algorithm_state(self) -> dict[str, Any]:
        """What the objective learned beside the model."""
        return self.objective.state()

    def export_weights(self, version: int) -> list[BucketInfo]:
        """Of the current weights, on rank 0; the others only take part in gathering."""
        weights: Iterable[tuple[str, torch.Tensor]]
        adapter = None
        if self._spec.ships_adapters:
            weights = export.adapter_weights(self.engine).items()
            adapter = export.adapter_config(self.engine)
        else:
            weights = self.weights()
        if self._sender is not None:
            return self._sender.export(version, weights, adapter)
        for _ in weights:
            pass
        return []

    def release_weights(self) -> None:
        """Engines have read the buckets."""
        if self._sender is not None:
            self._sender.release()

    def save(self, folder: str) -> None:
        """The model in Hugging Face format, and resumable state below `state/`."""
        self.save_model(Path(folder))
        self.save_state(Path(folder) / "state")
