"""Supervised fine-tuning: maximise the likelihood of demonstrations.

Given (prompt tokens, response tokens) pairs; gives one example for each and the mean negative log-likelihood.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from raylign.learners.algorithms.rows import RowAlgorithm, RowConfig, RowKind
from raylign.learners.examples.example import Example, Normalizers
from raylign.learners.losses.policy import Aggregation, nll, token_weights
from raylign.learners.meters.metric import PassMetrics, token_sum
from raylign.rollout.sample import IntArray

if TYPE_CHECKING:
    import torch

    from raylign.learners.examples.micro_batch import MicroBatch


class SftConfig(RowConfig):
    """Supervised fine-tuning on demonstrations."""

    row_kind: ClassVar[RowKind] = "demonstrations"
    name: Literal["sft"] = "sft"
    """Which algorithm this is."""
    aggregation: Literal["token_mean", "seq_mean_token_mean", "seq_mean_token_sum"] = "token_mean"
    """Every token counts the same, or every demonstration: by the mean or the sum over its tokens."""


def demonstration_examples(demonstrations: Iterable[tuple[IntArray, IntArray]]) -> list[Example]:
    """Examples of (prompt_ids, response_ids); the loss is on the response."""
    examples = []
    for number, (prompt_ids, response_ids) in enumerate(demonstrations):
        if len(prompt_ids) == 0 or len(response_ids) == 0:
            raise ValueError(f"demonstration {number}: prompt and response must have at least one token each")
        prompt, response = np.asarray(prompt_ids, np.int32), np.asarray(response_ids, np.int32)
        examples.append(Example(prompt, response, loss_mask=np.ones(len(response), np.float32)))
    return examples


class Sft(RowAlgorithm):
    """See the head of this file; implements `Algorithm`."""

    def __init__(
        self, config: SftConfig, max_staleness: int = 0, reward_weights: Mapping[str, float] | None = None
    ) -> None:
        self.config = config

    def loss(
        self, logps: torch.Tensor, entropies: torch.Tensor, batch: MicroBatch, normalizers: Normalizers
    ) -> tuple[torch.Tensor, PassMetrics]:
        """Σ w·(−log π_θ)."""
        token_loss = nll(logps) * batch.sequence_weights[batch.sequence_index]
        kind = self.config.aggregation
        aggregation: Aggregation = "seq_mean_token_sum_norm" if kind == "seq_mean_token_sum" else kind
        weights = token_weights(
            aggregation, batch.loss_mask, batch.sequence_index, batch.sequence_lengths, normalizers, norm_constant=1.0
        )
        return (weights * token_loss).sum(), {"learner/entropy": token_sum((entropies * batch.loss_mask).sum())}
