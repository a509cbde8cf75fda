"""What the algorithms that learn from rewards share: their common keys, examples, and the loss around the objective.

Given scored groups; gives examples with the algorithm's own advantages, and
    loss = Σ_tokens w · ( correction · objective + β·KL − entropy_coef · entropy ).
An algorithm says how rewards become advantages and what the objective of a token is; see grpo.py for the shortest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Self, TypeVar

from pydantic import Field, model_validator

from raylign.learners.algorithms.base import BaseAlgorithmConfig, ExampleMaker, PlainObjective
from raylign.learners.algorithms.facts import CurriculumKind, RunFacts
from raylign.learners.examples.example import Example, Normalizers
from raylign.learners.examples.from_groups import OverlongConfig, examples_of, total_rewards
from raylign.learners.losses.advantages import group_advantages
from raylign.learners.losses.corrections import CorrectionConfig, correction_weights
from raylign.learners.losses.policy import Aggregation, KlEstimator, PolicyLoss, kl, policy_loss, token_weights
from raylign.learners.meters.metric import PassMetrics, token_sum
from raylign.learners.meters.mismatch import weight_metrics
from raylign.rollout.sample import FloatArray, Group

if TYPE_CHECKING:
    import torch

    from raylign.learners.examples.micro_batch import MicroBatch


class PolicyConfig(BaseAlgorithmConfig):
    """Keys of every algorithm that learns from rewards."""

    curriculum: ClassVar[CurriculumKind] = "prompts"
    name: str
    """Which algorithm this is."""
    num_updates: int = Field(1, ge=1)
    """Optimizer steps on one batch of groups, each on its own part of the batch."""
    kl_coef: float = Field(0.0, ge=0)
    """Weight of the KL to the reference; 0: no reference model."""
    kl_estimator: KlEstimator = "k3"
    """Of the KL in the loss: k1, k2 or k3; only k2 has the gradient of KL(policy‖reference), k1 has none on average."""
    kl_clamp: float | None = Field(None, gt=0)
    """Bound on |log π_θ − log π_ref| of a token in the loss; empty: none."""
    entropy_coef: float = Field(0.0, ge=0)
    """Weight of the entropy bonus: the loss falls by it times the policy's entropy."""
    correction: CorrectionConfig = CorrectionConfig()
    mask_truncated: bool = False
    """Leave completions that were cut at the token limit out of the loss."""
    overlong: OverlongConfig | None = None
    """Soft penalty on overlong answers, added to the reward; empty: none."""

    @model_validator(mode="after")
    def _long_answers_are_punished_once(self) -> Self:
        if self.overlong is not None and self.mask_truncated:
            raise ValueError("overlong and mask_truncated both act on answers at the limit: keep one of them")
        return self

    @property
    def needs_reference(self) -> bool:
        return self.kl_coef > 0

    @property
    def optimizer_steps_per_batch(self) -> int:
        return self.num_updates

    @property
    def kl_place(self) -> Literal["loss", "reward"]:
        """Where the KL counts."""
        return "loss"

    @property
    def min_group_size(self) -> int:
        return 2

    def alarm_below(self, max_staleness: int) -> float:
        return self.correction.resolved(max_staleness).alarm_below

    def problems(self, run: RunFacts) -> Iterator[str]:
        if problem := self.staleness_problem(run.max_staleness):
            yield f"async.{problem}"
        num_samples = run.prompts_per_step * run.sampling.num_completions
        if self.num_updates > num_samples:
            yield f"algorithm.num_updates is {self.num_updates}: a step has only {num_samples} completions"
        start = self.overlong.max_tokens - self.overlong.buffer_tokens if self.overlong else 0
        if start >= run.sampling.max_tokens:
            yield (
                f"algorithm.overlong starts over {start} tokens: with sampling.max_tokens = {run.sampling.max_tokens} "
                "it never acts"
            )

    def build_examples(
        self, seed: int = 0, rows_per_step: int = 1, reward_weights: Mapping[str, float] | None = None
    ) -> PolicyExamples[Any]:
        return PolicyExamples(self)

    def staleness_problem(self, max_staleness: int) -> str | None:
        """Why this config cannot train on samples of older weights; None where it can."""
        return None


class ClippedConfig(PolicyConfig):
    """Keys of the algorithms with PPO's clipped loss."""

    clip_low: float = Field(0.2, ge=0, le=1)
    """Ratios under 1 - clip_low get no gradient where the advantage is negative."""
    clip_high: float = Field(0.28, ge=0)
    """Ratios over 1 + clip_high get no gradient where the advantage is positive."""
    dual_clip: float | None = Field(None, gt=1)
    """Cap c on the loss of tokens with negative advantage, at -c times the advantage; empty: off."""


C = TypeVar("C", bound=PolicyConfig)


class PolicyExamples(ExampleMaker, Generic[C]):
    """Scored groups as examples; subclasses give other `advantages`."""

    def __init__(self, config: C) -> None:
        self.config = config

    def from_groups(self, groups: Sequence[Group]) -> list[Example]:
        """One example for each completion; failed ones have NaN rewards and a zero mask."""
        groups = [group for group in groups if group.completions]
        rewards = [total_rewards(group, self.config.overlong) for group in groups]
        return examples_of(groups, rewards, self.advantages(groups, rewards), self.config.mask_truncated)

    def advantages(self, groups: Sequence[Group], rewards: Sequence[FloatArray]) -> list[FloatArray]:
        """(G,) of each group, from its (G,) total rewards."""
        return group_advantages(rewards)


class PolicyObjective(PlainObjective, Generic[C]):
    """Implements `Objective`; subclasses change what the methods below `loss` give."""

    aggregation: Aggregation = "token_mean"
    norm_constant: float | None = None
    learns_from_rows = False

    def __init__(self, config: C, max_staleness: int = 0) -> None:
        if problem := config.staleness_problem(max_staleness):
            raise ValueError(problem)
        self.config = config
        self.correction = config.correction.resolved(max_staleness)
        self.proximal = self.correction.proximal
        self.needs_reference = config.needs_reference
        self.num_updates = config.num_updates
        self.entropy_has_gradient = config.entropy_coef > 0
        self._kl_coef = config.kl_coef if config.kl_place == "loss" else 0.0
        self.needs_old_logps = config.kl_coef > 0 and config.kl_place == "reward"
        self.skips_zero_advantages = self._kl_coef == 0 and config.entropy_coef == 0

    def loss(
        self, logps: torch.Tensor, entropies: torch.Tensor, batch: MicroBatch, normalizers: Normalizers
    ) -> tuple[torch.Tensor, PassMetrics]:
        """Σ w·(correction·objective + β·KL − entropy)."""
        mask = batch.loss_mask
        old_logps = self._old_logps(logps, batch)
        token_loss, clipped_low, clipped_high = self.objective(logps, old_logps, batch)
        metrics = {
            "learner/entropy": token_sum((entropies.detach() * mask).sum()),
            "learner/clip_fraction_low": token_sum((clipped_low * mask).sum()),
            "learner/clip_fraction_high": token_sum((clipped_high * mask).sum()),
        }
        if self.correction.kind != "none":
            assert batch.rollout_logps is not None, "rollouts carry log-probs"
            weights, truncated, masked = correction_weights(
                self.correction, old_logps, batch.rollout_logps, mask, batch.sequence_index, batch.sequence_lengths
            )
            token_loss = token_loss * weights
            metrics["mismatch/truncated_share"] = token_sum((truncated * mask).sum())
            metrics["mismatch/masked_share"] = token_sum((masked * mask).sum())
            if self.proximal != "rollout":  # else the weights are 1, and say nothing
                metrics |= weight_metrics(weights, mask)
        token_loss = token_loss * batch.sequence_weights[batch.sequence_index]
        if self.needs_reference:
            assert batch.reference_logps is not None, "the learner fills reference_logps"
            metrics["learner/kl"] = token_sum((kl(logps.detach(), batch.reference_logps, "k3") * mask).sum())
            if self._kl_coef > 0:
                estimate = kl(logps, batch.reference_logps, self.config.kl_estimator, self.config.kl_clamp)
                token_loss = token_loss + self._kl_coef * estimate
        if self.config.entropy_coef > 0:
            token_loss = token_loss - self.config.entropy_coef * entropies
        weights = token_weights(
            self.aggregation, mask, batch.sequence_index, batch.sequence_lengths, normalizers, self.norm_constant
        )
        return (weights * token_loss).sum(), metrics

    def objective(self, logps: torch.Tensor, old_logps: torch.Tensor, batch: MicroBatch) -> PolicyLoss:
        """(N,) what is minimised, token by token; here PPO's clipped loss."""
        config = self.config
        assert isinstance(config, ClippedConfig) and batch.advantages is not None
        return policy_loss(logps, old_logps, batch.advantages, config.clip_low, config.clip_high, config.dual_clip)

    def _old_logps(self, logps: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
        """log π_old; in the only (or first) step on the batch it is the policy itself, so nothing was recomputed."""
        if batch.old_logps is not None:
            return batch.old_logps
        if self.proximal == "recompute":
            return logps.detach()
        assert batch.rollout_logps is not None, "rollouts carry log-probs"
        if self.proximal == "rollout":
            return batch.rollout_logps
        assert batch.proximal_share is not None, "the learner fills proximal_share"
        return batch.rollout_logps + batch.proximal_share * (logps.detach() - batch.rollout_logps)
