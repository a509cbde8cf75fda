"""Supervised fine-tuning: maximise the likelihood of demonstrations.

Given (prompt tokens, response tokens) pairs; gives one example for each and the mean negative log-likelihood.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel

from raylign.learners.algorithms.base import DynamicSampling, Example, Normalizers, Proximal
from raylign.learners.losses import nll, token_weights
from raylign.rollout.sample import Group, IntArray

if TYPE_CHECKING:
    import torch

    from raylign.learners.batch import MicroBatch


class SftConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """Supervised fine-tuning on demonstrations."""

    name: Literal["sft"] = "sft"
    """Which algorithm this is."""
    aggregation: Literal["token_mean", "seq_mean_token_mean"] = "token_mean"
    """Every token counts the same, or every demonstration."""

    @property
    def min_group_size(self) -> int:
        """Nothing is compared."""
        return 1

    def staleness_problem(self, max_staleness: int) -> str | None:
        """None: demonstrations were sampled from no weights, so no bound concerns them."""
        return None


def demonstration_examples(demonstrations: Iterable[tuple[IntArray, IntArray]]) -> list[Example]:
    """Examples of (prompt_ids, response_ids); the loss is on the response."""
    examples = []
    for number, (prompt_ids, response_ids) in enumerate(demonstrations):
        if len(prompt_ids) == 0 or len(response_ids) == 0:
            raise ValueError(f"demonstration {number}: prompt and response must have at least one token each")
        prompt, response = np.asarray(prompt_ids, np.int32), np.asarray(response_ids, np.int32)
        examples.append(Example(prompt, response, loss_mask=np.ones(len(response), np.float32)))
    return examples


class Sft:
    """See the head of this file; implements `Algorithm`."""

    needs_rollouts = False
    needs_reference = False
    num_updates = 1
    min_group_size = 1
    dynamic_sampling: DynamicSampling | None = None
    proximal: Proximal = "recompute"
    completes_batch = False
    needs_old_logps = False
    skips_zero_advantages = False
    entropy_has_gradient = False
    alarm_below = 0.0

    def __init__(
        self, config: SftConfig, max_staleness: int = 0, reward_weights: Mapping[str, float] | None = None
    ) -> None:
        self.config = config

    def accepts(self, group: Group) -> bool:
        return True

    def complete(self, examples: list[Example]) -> list[Example]:
        return examples

    def examples(self, groups: Sequence[Group]) -> list[Example]:
        raise ValueError("sft learns from demonstrations, not from rollouts: use `demonstration_examples`")

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        pass

    def loss(
        self, logps: torch.Tensor, entropies: torch.Tensor, batch: MicroBatch, normalizers: Normalizers
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Σ w·(−log π_θ)."""
        token_loss = nll(logps) * batch.sequence_weights[batch.sequence_index]
        weights = token_weights(
            self.config.aggregation, batch.loss_mask, batch.sequence_index, batch.sequence_lengths, normalizers
        )
        return (weights * token_loss).sum(), {"learner/entropy/sum": (entropies * batch.loss_mask).sum()}
