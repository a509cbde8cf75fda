"""Group advantages: GRPO, Dr. GRPO and batch-scaled.

Given the (G,) rewards of each group, NaN where scoring failed; gives (G,) advantages of each group, 0 for failures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from raylign.rollout.sample import FloatArray

AdvantageScale = Literal["group", "batch", "none"]
"""What rewards minus their group mean are divided by: the group's std (GRPO), the batch's std, or nothing
(Dr. GRPO).
"""


def group_advantages(
    rewards: Sequence[FloatArray], scale: AdvantageScale = "group", epsilon: float = 1e-6
) -> list[FloatArray]:
    """A_i = (R_i − mean) / (std + ε), std unbiased (arXiv 2402.03300 section 4.1.2; `none`: arXiv 2503.20783).

    Groups whose rewards are all equal get exactly 0, also under rounding noise that a division by a tiny std
    would blow up.
    """
    scored_B = [reward_G[np.isfinite(reward_G)].astype(np.float64) for reward_G in rewards]
    batch_std = _unbiased_std(np.concatenate(scored_B)) if scored_B else 0.0
    advantages = []
    for reward_G, scored in zip(rewards, scored_B, strict=True):
        advantage_G = np.zeros(len(reward_G), np.float32)
        if not all_equal(scored):
            divisor = {"group": _unbiased_std(scored) + epsilon, "batch": batch_std + epsilon, "none": 1.0}[scale]
            advantage_G[np.isfinite(reward_G)] = (scored - scored.mean()) / divisor
        advantages.append(advantage_G)
    return advantages


def all_equal(rewards: np.ndarray) -> bool:
    """Whether rewards differ by no more than float32 rounding noise; true for fewer than two."""
    if len(rewards) < 2:
        return True
    return bool(np.ptp(rewards) <= 1e-6 * max(1.0, float(np.abs(rewards).max())))


def _unbiased_std(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0
