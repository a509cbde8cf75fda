"""One pass over a global batch, measured the same way for every objective.

Given the objective and the examples of one optimizer step; gives the loss that engines differentiate, with padding and
mismatch beside the objective's own metrics, and the metrics of the step made of what engines add up.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from raylign.learners.algorithms.base import Objective
from raylign.learners.examples.example import Example
from raylign.learners.examples.micro_batch import MicroBatch, normalizers_of, units_of
from raylign.learners.meters.metric import SEQUENCE_LOSS, Metric, PassMetrics, StepMetrics, divided
from raylign.learners.meters.mismatch import finish_mismatch, mismatch_metrics

LOSS = "learner/loss"
NUM_POSITIONS, NUM_INPUT_TOKENS = "num_positions", "num_input_tokens"


class MeasuredLoss:
    """Implements `LossFunction`."""

    def __init__(self, objective: Objective, examples: Sequence[Example], run: Sequence[Example]) -> None:
        """`examples`: the global batch, which the loss is over; `run`: those of it that go through the model, since the
        others have no gradient."""
        self._objective = objective
        self._normalizers, self._run_normalizers = normalizers_of(examples), normalizers_of(run)
        self._num_units = len(units_of(run))
        self.sequence_losses: list[dict[int, float]] = []
        """By place in `run`, of each micro-batch of this rank; filled where the objective gives them."""

    def __call__(
        self, logps: torch.Tensor, entropies: torch.Tensor, batch: MicroBatch
    ) -> tuple[torch.Tensor, PassMetrics]:
        share, metrics = self._objective.loss(logps, entropies, batch, self._normalizers)
        if SEQUENCE_LOSS in metrics:
            losses = metrics.pop(SEQUENCE_LOSS).value.tolist()
            self.sequence_losses.append(dict(zip(batch.example_indices, losses, strict=False)))  # a stand-in has none
        metrics |= self._padding(batch, share)
        if batch.rollout_logps is not None:
            old_logps = logps.detach() if batch.old_logps is None else batch.old_logps
            metrics |= mismatch_metrics(
                old_logps, batch.rollout_logps, batch.loss_mask, batch.sequence_index, batch.sequence_lengths
            )
        return share, {LOSS: Metric(share, "sum"), **metrics}

    def _padding(self, batch: MicroBatch, like: torch.Tensor) -> PassMetrics:
        counts = {
            NUM_POSITIONS: batch.input_ids.numel() if batch.example_indices else 0,
            NUM_INPUT_TOKENS: batch.num_input_tokens,
        }
        return {name: Metric(like.new_tensor(count, dtype=torch.float64), "sum") for name, count in counts.items()}

    def finished(self, totals: StepMetrics) -> StepMetrics:
        """Metrics of the step. Means are over the tokens and units that were run."""
        run = self._run_normalizers
        metrics = divided(totals, run.num_tokens, self._num_units)
        num_positions, num_input_tokens = metrics.pop(NUM_POSITIONS).value, metrics.pop(NUM_INPUT_TOKENS).value
        return {
            LOSS: metrics.pop(LOSS),
            "learner/padding_share": Metric(1 - num_input_tokens / num_positions, "mean"),
            "learner/skipped_share": Metric(1 - run.num_tokens / self._normalizers.num_tokens, "mean"),
            **finish_mismatch(metrics, run.num_tokens / run.num_sequences),
        }
