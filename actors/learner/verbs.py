"""What the train loop may ask of the learner's ranks: one list, with types, for both ends.

`LearnerGroup` calls these names, and mypy holds each call to the types here; `LearnerRank` implements them. No heavy
import: the loop's process never loads a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from raylign.learners.examples.example import Example
from raylign.rollout.weights.buckets import BucketInfo


class RankVerbs(Protocol):
    """All ranks run every verb together; the loop gets rank 0's result."""

    def ready(self) -> None:
        """Nothing: the first verb, whose answer says that the learner is built."""

    def update(self, examples: Sequence[Example], version: int | None = None) -> dict[str, float]:
        """One batch: optimizer steps. `version`: of the weights that the batch improves; no token may be older than
        the bound. Metrics of all ranks together."""

    def evaluate(self, examples: Sequence[Example]) -> dict[str, float]:
        """Loss and metrics of the current model, without a gradient."""

    def algorithm_state(self) -> dict[str, Any]:
        """What the objective learned beside the model; its keys are its own."""

    def offload(self) -> None:
        """Leave the GPU to the engine (colocated mode)."""

    def reload(self) -> None:
        """Take the GPU back."""

    def export_weights(self, version: int) -> list[BucketInfo]:
        """Write the current weights for engines to fetch; where they lie."""

    def release_weights(self) -> None:
        """Engines have fetched the exported weights."""

    def save(self, folder: str) -> None:
        """The model in Hugging Face format in `folder`, and resumable state in `folder/state`."""
