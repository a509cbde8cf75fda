"""The mismatch meter against hand-worked numbers."""

from __future__ import annotations

import math

import pytest
import torch

from raylign.learners.meters.mismatch import effective_sample_size_share, mismatch_metrics


def test_meter_counts_only_tokens_in_the_loss() -> None:
    old, rollout = torch.tensor([math.log(2), 0.0, 5.0]), torch.tensor([0.0, 0.0, -5.0])
    metrics = mismatch_metrics(
        old, rollout, torch.tensor([1.0, 1.0, 0.0]), torch.tensor([0, 0, 1]), torch.tensor([2.0, 0.0])
    )
    assert metrics["mismatch/mean_abs_logp_difference"].value.item() == pytest.approx(math.log(2))
    assert metrics["mismatch/max_abs_logp_difference"].value.item() == pytest.approx(math.log(2))
    assert metrics["mismatch/mean_ratio"].value.item() == pytest.approx(3)
    assert metrics["mismatch/ratio_squared"].value.item() == pytest.approx(5)


def test_effective_sample_size_share() -> None:
    # ratios 2 and 1: (2 + 1)² / (2 · (4 + 1)) = 0.9
    assert effective_sample_size_share(1.5, 2.5) == pytest.approx(0.9)
    assert effective_sample_size_share(1.0, 1.0) == 1.0
