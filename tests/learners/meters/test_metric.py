"""What a metric says it is decides how it combines, whatever its name looks like."""

from __future__ import annotations

import pytest
import torch

from raylign.learners.meters.metric import (
    Metric,
    PassMetrics,
    add_metrics,
    divided,
    maximum,
    means,
    minimum,
    over_steps,
    token_sum,
    unit_sum,
    values_of,
)


def micro_batch(scale: float) -> PassMetrics:
    """Names that say the opposite of what the values are."""
    return {
        "x/max_of_nothing": token_sum(torch.tensor(2.0 * scale)),
        "x/sum": maximum(torch.tensor(scale)),
        "x/max": minimum(torch.tensor(scale)),
        "x/min_": unit_sum(torch.tensor(3.0 * scale)),
        "loss": Metric(torch.tensor(scale), "sum"),
    }


def test_micro_batches_combine_by_kind() -> None:
    totals: PassMetrics = {}
    for scale in (1.0, 3.0, 2.0):
        add_metrics(totals, micro_batch(scale))
    found = {name: metric.value.item() for name, metric in totals.items()}
    assert found == {"x/max_of_nothing": 12.0, "x/sum": 3.0, "x/max": 1.0, "x/min_": 18.0, "loss": 6.0}
    assert all(metric.value.dtype == torch.float64 for metric in totals.values())


def test_sums_become_means_over_what_they_are_sums_of() -> None:
    totals = {name: Metric(metric.value.item(), metric.kind) for name, metric in micro_batch(2.0).items()}
    finished = divided(totals, num_tokens=8.0, num_units=3)
    assert values_of(finished) == {"x/max_of_nothing": 0.5, "x/sum": 2.0, "x/max": 2.0, "x/min_": 2.0, "loss": 2.0}
    assert {name for name, metric in finished.items() if metric.kind == "mean"} == {
        "x/max_of_nothing",
        "x/min_",
        "loss",
    }


def test_optimizer_steps_combine_by_kind_and_count_where_a_metric_is_there() -> None:
    steps = [
        {"x/mean": Metric(value, "maximum"), "y/max_y": Metric(value, "mean"), "z": Metric(value, "minimum")}
        for value in (1.0, 4.0)
    ]
    assert over_steps([*steps, means({"y/max_y": 1.0, "later": 7.0})]) == {
        "x/mean": 4.0,
        "y/max_y": 2.0,
        "z": 1.0,
        "later": 7.0,
    }


def test_a_name_that_changes_its_kind_is_found() -> None:
    totals: PassMetrics = {"x": token_sum(torch.tensor(1.0))}
    with pytest.raises(AssertionError, match="x is a token_sum in one micro-batch and a maximum in another"):
        add_metrics(totals, {"x": maximum(torch.tensor(1.0))})


def test_means_of_micro_batches_do_not_combine() -> None:
    totals: PassMetrics = {"x": Metric(torch.tensor(1.0), "mean")}
    with pytest.raises(AssertionError, match="their sums do"):
        add_metrics(totals, {"x": Metric(torch.tensor(2.0), "mean")})
