"""log π_ref: under a frozen copy of the start model, or under the policy with its adapters off.

Given the learner's config; gives log-probs of micro-batches. The copy is loaded when it is first needed: a cache that
knows every row needs none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from raylign.learners.engines.build import shard_frozen
from raylign.learners.engines.config import LearnerConfig
from raylign.learners.examples.micro_batch import Layout, MicroBatch
from raylign.learners.model.policy_model import load_reference

if TYPE_CHECKING:
    from raylign.learners.engines.base import LearnerEngine
    from raylign.learners.engines.frozen import FrozenModel


class Reference:
    """See the head of this file."""

    def __init__(self, config: LearnerConfig, model_path: str, temperature: float, layout: Layout) -> None:
        self._config, self._temperature, self._layout = config, temperature, layout
        self.path = config.reference_path or model_path
        self._is_policy_without_adapter = config.lora is not None and config.reference_path is None
        self._model: FrozenModel | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether a copy takes memory."""
        return self._model is not None

    def load(self) -> None:
        """Once; nothing where adapters on the start model are trained."""
        if self._model is None and not self._is_policy_without_adapter:
            model = load_reference(self.path, self._config, self._temperature, self._layout)
            self._model = shard_frozen(model, self._config)

    def logprobs(self, engine: LearnerEngine, batches: Sequence[MicroBatch]) -> list[torch.Tensor]:
        """(N,) of each micro-batch, on the CPU. `engine`: what trains the policy."""
        self.load()
        if self._model is None:
            with engine.policy.without_adapter():
                return engine.logprobs(batches)
        with torch.no_grad():
            return [self._model.logps_of(batch.to(engine.device))[0].cpu() for batch in batches]

    def offload(self) -> None:
        """See `LearnerEngine.offload`; nothing where no copy was loaded."""
        if self._model is not None:
            self._model.offload()

    def reload(self) -> None:
        """See `LearnerEngine.reload`."""
        if self._model is not None:
            self._model.reload()
