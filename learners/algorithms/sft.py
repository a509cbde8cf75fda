"""Supervised fine-tuning: maximise the likelihood of demonstrations.

Given (prompt tokens, response tokens) pairs; gives one example for each and the mean negative log-likelihood.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from raylign.learners.algorithms.base import BaseAlgorithmConfig, ExampleMaker, PlainObjective
from raylign.learners.algorithms.facts import CurriculumKind, RunRows
from raylign.learners.examples.example import Example, Normalizers
from raylign.learners.examples.rows import Demonstration
from raylign.learners.losses.policy import Aggregation, nll, token_weights
from raylign.learners.meters.metric import PassMetrics, token_sum

if TYPE_CHECKING:
    import torch

    from raylign.learners.examples.micro_batch import MicroBatch


class SftConfig(BaseAlgorithmConfig):
    """Supervised fine-tuning on demonstrations."""

    curriculum: ClassVar[CurriculumKind] = "demonstrations"
    name: Literal["sft"] = "sft"
    """Which algorithm this is."""
    aggregation: Literal["token_mean", "seq_mean_token_mean", "seq_mean_token_sum"] = "token_mean"
    """Every token counts the same, or every demonstration: by the mean or the sum over its tokens."""

    def build_objective(self, max_staleness: int = 0, rows: RunRows | None = None) -> Sft:
        return Sft(self)

    def build_examples(
        self, seed: int = 0, rows_per_step: int = 1, reward_weights: Mapping[str, float] | None = None
    ) -> SftExamples:
        return SftExamples()


class SftExamples(ExampleMaker):
    """The loss is on the response."""

    def from_demonstrations(self, demonstrations: Sequence[Demonstration]) -> list[Example]:
        examples = []
        for number, (prompt_ids, response_ids) in enumerate(demonstrations):
            if len(prompt_ids) == 0 or len(response_ids) == 0:
                raise ValueError(f"demonstration {number}: prompt and response must have at least one token each")
            prompt, response = np.asarray(prompt_ids, np.int32), np.asarray(response_ids, np.int32)
            examples.append(Example(prompt, response, loss_mask=np.ones(len(response), np.float32)))
        return examples


class Sft(PlainObjective):
    """See the head of this file; implements `Objective`."""

    def __init__(self, config: SftConfig) -> None:
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
