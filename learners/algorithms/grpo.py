"""GRPO and its settings: Dr. GRPO, DAPO's clip range and token mean, dual clip, KL to a reference, token TIS.

Given scored groups; gives one example for each completion, with its group advantage on every token, and the
clipped loss. Departs from the first paper (arXiv 2402.03300): token mean over the global batch, KL off, clip
0.2/0.28 by default;
`aggregation: seq_mean_token_mean`, `clip_high: 0.2`, `kl_coef: 0.04` give the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic import BaseModel, Field, model_validator

from raylign.learners.advantages import AdvantageScale, group_advantages
from raylign.learners.algorithms.base import Example, Normalizers
from raylign.learners.losses import Aggregation, KlEstimator, kl, policy_loss, token_weights
from raylign.learners.mismatch import truncated_importance_weights
from raylign.rollout.sample import Group

if TYPE_CHECKING:
    import torch

    from raylign.learners.batch import MicroBatch


class GrpoConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """Group-relative policy optimization."""

    name: Literal["grpo"] = "grpo"
    """Which algorithm this is."""
    advantage_scale: AdvantageScale = "group"
    """Rewards minus their group mean are divided by the group's std (GRPO), the batch's std, or nothing (Dr. GRPO)."""
    advantage_epsilon: float = Field(1e-6, ge=0)
    """Added to the std."""
    clip_low: float = Field(0.2, ge=0, le=1)
    """Ratios under 1 - clip_low get no gradient where the advantage is negative."""
    clip_high: float = Field(0.28, ge=0)
    """Ratios over 1 + clip_high get no gradient where the advantage is positive."""
    dual_clip: float | None = Field(None, gt=1)
    """Cap c on the loss of tokens with negative advantage, at -c times the advantage; empty: off."""
    aggregation: Aggregation = "token_mean"
    """How token losses become one number, over the global batch."""
    norm_constant: float | None = Field(None, gt=0)
    """Divisor of seq_mean_token_sum_norm, usually max_tokens (Dr. GRPO)."""
    kl_coef: float = Field(0.0, ge=0)
    """Weight of the KL to the reference in the loss; 0: no reference model."""
    kl_estimator: KlEstimator = "k3"
    """k1, k2 or k3; as a loss only k2 has the gradient of KL(policy‖reference), and k1 has none on average."""
    num_updates: int = Field(1, ge=1)
    """Optimizer steps on one batch of groups, each on its own part of the batch."""
    tis_cap: float | None = Field(None, gt=0)
    """Token losses are multiplied by min(π_old/π_roll, tis_cap) against engine mismatch; empty: off."""
    mask_truncated: bool = False
    """Leave completions that were cut at the token limit out of the loss."""

    @model_validator(mode="after")
    def _constant_belongs_to_its_aggregation(self) -> Self:
        if (self.aggregation == "seq_mean_token_sum_norm") != (self.norm_constant is not None):
            raise ValueError(
                f"aggregation is {self.aggregation} and norm_constant is {self.norm_constant}: "
                "seq_mean_token_sum_norm needs norm_constant, the other aggregations do not read it"
            )
        return self


class Grpo:
    """See the head of this file; implements `Algorithm`."""

    needs_rollouts = True

    def __init__(self, config: GrpoConfig) -> None:
        self.config = config
        self.needs_reference = config.kl_coef > 0
        self.num_updates = config.num_updates

    def examples(self, groups: Sequence[Group]) -> list[Example]:
        """One example for each completion; failed ones have NaN rewards and a zero mask."""
        groups = [group for group in groups if group.completions]
        rewards = [_total_rewards(group) for group in groups]
        advantages = group_advantages(rewards, self.config.advantage_scale, self.config.advantage_epsilon)
        examples = []
        for group, reward_G, advantage_G in zip(groups, rewards, advantages, strict=True):
            for completion, reward, advantage in zip(group.completions, reward_G, advantage_G, strict=True):
                num_tokens = len(completion.token_ids)
                truncated = completion.stop_reason == "length"
                if num_tokens == 0:
                    continue
                failed = not np.isfinite(reward) or completion.stop_reason == "aborted"
                counts = not failed and not (truncated and self.config.mask_truncated)
                examples.append(
                    Example(
                        prompt_ids=group.prompt.token_ids,
                        completion_ids=completion.token_ids,
                        loss_mask=np.full(num_tokens, float(counts), np.float32),
                        advantages=np.full(num_tokens, advantage, np.float32),
                        rollout_logps=completion.logps,
                    )
                )
        return examples

    def loss(
        self, logps: torch.Tensor, entropies: torch.Tensor, batch: MicroBatch, normalizers: Normalizers
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Σ w·(policy loss + β·KL). Without `batch.old_logps` this is the first step on the batch: π_old = sg(π_θ)."""
        config, mask = self.config, batch.loss_mask
        assert batch.advantages is not None, "GRPO examples have advantages"
        old_logps = logps.detach() if batch.old_logps is None else batch.old_logps
        token_loss, clipped_low, clipped_high = policy_loss(
            logps, old_logps, batch.advantages, config.clip_low, config.clip_high, config.dual_clip
        )
        metrics = {
            "learner/entropy/sum": (entropies * mask).sum(),
            "learner/clip_fraction_low/sum": (clipped_low * mask).sum(),
            "learner/clip_fraction_high/sum": (clipped_high * mask).sum(),
        }
        if config.tis_cap is not None:
            assert batch.rollout_logps is not None, "rollouts carry log-probs"
            token_loss = token_loss * truncated_importance_weights(old_logps, batch.rollout_logps, config.tis_cap)
        if config.kl_coef > 0:
            assert batch.reference_logps is not None, "the learner fills reference_logps"
            token_loss = token_loss + config.kl_coef * kl(logps, batch.reference_logps, config.kl_estimator)
            metrics["learner/kl/sum"] = (kl(logps.detach(), batch.reference_logps, "k3") * mask).sum()
        weights = token_weights(
            config.aggregation, mask, batch.sequence_index, batch.sequence_lengths, normalizers, config.norm_constant
        )
        return (weights * token_loss).sum(), metrics


def _total_rewards(group: Group) -> np.ndarray:
    if group.total_rewards is None or len(group.total_rewards) != len(group.completions):
        raise ValueError(
            f"prompt {group.prompt.prompt_id}: its {len(group.completions)} completions are not all scored"
        )
    return group.total_rewards
