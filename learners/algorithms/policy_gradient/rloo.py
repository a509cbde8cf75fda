"""RLOO: REINFORCE on whole answers, each against the mean of the others of its prompt (arXiv 2402.14740).

Given scored groups; gives examples with leave-one-out advantages, the KL to the reference inside the reward, and
−A·Σ_t log π_θ as a mean over sequences. It has no ratio of its own: with several optimizer steps on a batch PPO's clip
takes its place, and samples of older weights need a correction that weighs them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from raylign.learners.algorithms.facts import RunRows
from raylign.learners.algorithms.policy_gradient.policy import PolicyConfig, PolicyExamples, PolicyObjective
from raylign.learners.examples.example import Example
from raylign.learners.losses.advantages import leave_one_out
from raylign.learners.losses.policy import PolicyLoss, policy_loss, reinforce_loss
from raylign.rollout.sample import FloatArray, Group

if TYPE_CHECKING:
    import torch

    from raylign.learners.examples.micro_batch import MicroBatch


class RlooConfig(PolicyConfig):
    """REINFORCE leave-one-out."""

    name: Literal["rloo"] = "rloo"
    """Which algorithm this is."""
    kl_in: Literal["reward", "loss"] = "reward"
    """Whether the KL (k1, summed over the answer) lowers the reward, or is a term of the loss."""
    clip: float = Field(0.2, gt=0)
    """PPO's clip range, where num_updates is above 1."""

    @property
    def kl_place(self) -> Literal["loss", "reward"]:
        return self.kl_in

    def staleness_problem(self, max_staleness: int) -> str | None:
        if max_staleness == 0 or self.correction.resolved(max_staleness).weighs:
            return None
        return (
            f"max_staleness is {max_staleness} and algorithm.correction.kind is {self.correction.kind}: rloo's "
            "gradient A·∇log π_θ holds only for samples of π_θ, so older ones must be weighed by π_θ/π_roll; use auto"
        )

    def build_objective(self, max_staleness: int = 0, rows: RunRows | None = None) -> Rloo:
        return Rloo(self, max_staleness)

    def build_examples(
        self, seed: int = 0, rows_per_step: int = 1, reward_weights: Mapping[str, float] | None = None
    ) -> RlooExamples:
        return RlooExamples(self)


class Rloo(PolicyObjective[RlooConfig]):
    """See the head of this file."""

    aggregation = "seq_mean_token_sum_norm"
    norm_constant = 1.0

    def __init__(self, config: RlooConfig, max_staleness: int = 0) -> None:
        super().__init__(config, max_staleness)
        self.completes_batch = self.needs_old_logps

    def complete(self, examples: list[Example]) -> list[Example]:
        """Take β·Σ_t k1 out of each reward. Leave-one-out is linear, so its own leave-one-out is added to A."""
        by_group: dict[int, list[int]] = {}
        for index, example in enumerate(examples):
            by_group.setdefault(example.group, []).append(index)
        costs = [self.config.kl_coef * _summed_k1(example) for example in examples]
        completed = list(examples)
        for members in by_group.values():
            [shift] = leave_one_out([-np.array([costs[i] for i in members])])
            for index, change in zip(members, shift, strict=True):
                advantages = examples[index].advantages
                assert advantages is not None
                completed[index] = replace(examples[index], advantages=advantages + change)
        return completed

    def objective(self, logps: torch.Tensor, old_logps: torch.Tensor, batch: MicroBatch) -> PolicyLoss:
        assert batch.advantages is not None
        if self.num_updates == 1:
            return reinforce_loss(logps, batch.advantages)
        return policy_loss(logps, old_logps, batch.advantages, self.config.clip, self.config.clip)


class RlooExamples(PolicyExamples[RlooConfig]):
    """Implements `advantages`."""

    def advantages(self, groups: Sequence[Group], rewards: Sequence[FloatArray]) -> list[FloatArray]:
        return leave_one_out(rewards)


def _summed_k1(example: Example) -> float:
    assert example.old_logps is not None and example.reference_logps is not None, "the learner fills both"
    return float(((example.old_logps - example.reference_logps) * example.loss_mask).sum(dtype=np.float64))
