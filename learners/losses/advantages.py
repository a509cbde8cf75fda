"""Advantages: of groups (GRPO, Dr. GRPO, batch-scaled, leave-one-out, several rewards) and of tokens (REINFORCE++).

Given the (G,) rewards of each group, NaN where scoring failed; gives (G,) advantages of each group, 0 for failures.
The functions on tokens are given lists of (T,) arrays over the whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from raylign.rewards.z_scores import all_equal, unbiased_std, z_scores
from raylign.rollout.sample import FloatArray

AdvantageScale = Literal["group", "batch", "none"]
"""What rewards minus their group mean are divided by: the group's std (GRPO), the batch's std, or nothing
(Dr. GRPO).
"""
WHITENING_EPSILON = 1e-8
"""Inside the root."""


def group_advantages(
    rewards: Sequence[FloatArray], scale: AdvantageScale = "group", epsilon: float = 1e-6
) -> list[FloatArray]:
    """A_i = (R_i − mean) / (std + ε), std unbiased (arXiv 2402.03300 section 4.1.2; `none`: arXiv 2503.20783).

    Groups whose rewards are all equal get exactly 0, also under rounding noise that a division by a tiny std
    would blow up.
    """
    scored_B = [reward_G[np.isfinite(reward_G)].astype(np.float64) for reward_G in rewards]
    batch_std = unbiased_std(np.concatenate(scored_B)) if scored_B else 0.0
    std, added = {"group": (None, epsilon), "batch": (batch_std, epsilon), "none": (1.0, 0.0)}[scale]
    advantages = []
    for reward_G, scored in zip(rewards, scored_B, strict=True):
        advantage_G = np.zeros(len(reward_G), np.float32)
        advantage_G[np.isfinite(reward_G)] = z_scores(scored, added, std)
        advantages.append(advantage_G)
    return advantages


def leave_one_out(rewards: Sequence[FloatArray]) -> list[FloatArray]:
    """A_i = R_i − mean of the others = G/(G−1)·(R_i − mean) (RLOO, arXiv 2402.14740), G the scored completions."""
    sizes = [int(np.isfinite(reward_G).sum()) for reward_G in rewards]
    centred = group_advantages(rewards, "none")
    return [
        (advantage_G * (size / max(1, size - 1))).astype(np.float32)
        for advantage_G, size in zip(centred, sizes, strict=True)
    ]


def several_reward_advantages(
    rewards: Sequence[Mapping[str, FloatArray]],
    weights: Mapping[str, float],
    scale: AdvantageScale = "group",
    epsilon: float = 1e-6,
) -> list[FloatArray]:
    """Σ_k weight_k · A_k, each reward k normalised in its groups alone, then divided by the batch's std (GDPO,
    arXiv 2601.05242): one reward's spread does not drown the others. Its batch mean is 0 by construction. A reward that
    is NaN on a completion which others score does not apply to it, and adds nothing; NaN in all: scoring failed.

    Groups where the rewards cancel have no spread either and get exactly 0: without that a batch of them would be what
    rounding and ε leave over, divided by its own std. Whether they cancel is looked at without ε.
    """
    sums, failed = _weighed_sums(rewards, weights, scale, epsilon)
    for total, differs in zip(sums, several_reward_spread(rewards, weights, scale), strict=True):
        if not differs:
            total[:] = 0.0
    scored = [total[~bad] for total, bad in zip(sums, failed, strict=True)]
    std = unbiased_std(np.concatenate(scored)) if scored else 0.0
    if std == 0.0:
        return [total.astype(np.float32) for total in sums]
    return [(total / (std + epsilon)).astype(np.float32) for total in sums]


def several_reward_spread(
    rewards: Sequence[Mapping[str, FloatArray]], weights: Mapping[str, float], scale: AdvantageScale = "group"
) -> list[bool]:
    """Whether each group gets advantages there: false where every reward is all equal, and where they cancel. The scale
    `batch` compares with the other groups, so ask for all of them at once."""
    largest = max((abs(weight) for weight in weights.values()), default=0.0) or 1.0
    sums, failed = _weighed_sums(rewards, weights, scale, 0.0)
    return [not all_equal(total[~bad] / largest) for total, bad in zip(sums, failed, strict=True)]


def _weighed_sums(
    rewards: Sequence[Mapping[str, FloatArray]], weights: Mapping[str, float], scale: AdvantageScale, epsilon: float
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(G,) Σ_k weight_k · A_k of each group, and which of its completions have no score."""
    sums = [np.zeros(len(next(iter(group.values()))), np.float64) for group in rewards]
    failed = [np.asarray(~np.isfinite(list(group.values())).any(axis=0)) for group in rewards]
    for name, weight in weights.items():
        columns = [group[name] for group in rewards]
        for total, advantage_G in zip(sums, group_advantages(columns, scale, epsilon), strict=True):
            total += weight * advantage_G
    return sums, failed


def returns_with_kl(
    score: float, old_logps: FloatArray, reference_logps: FloatArray, mask: FloatArray, kl_coef: float
) -> FloatArray:
    """(T,) returns with γ = 1 when every token costs kl_coef·k1 and the last one earns the score (REINFORCE++)."""
    cost = kl_coef * (old_logps.astype(np.float64) - reference_logps) * mask
    return (score - np.cumsum(cost[::-1])[::-1]).astype(np.float32)


def whitened(values: Sequence[FloatArray], masks: Sequence[FloatArray]) -> list[FloatArray]:
    """(x − mean) / √(variance + ε) over all unmasked tokens of the batch; exactly 0 where all are equal."""
    kept = np.concatenate([value[mask > 0] for value, mask in zip(values, masks, strict=True)]).astype(np.float64)
    if all_equal(kept):
        return [np.zeros(len(value), np.float32) for value in values]
    root = np.sqrt(kept.var() + WHITENING_EPSILON)
    return [((value - kept.mean()) / root).astype(np.float32) for value in values]
