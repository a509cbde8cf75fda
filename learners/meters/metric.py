"""Metrics that say what they are, so that nobody has to guess from a name how they combine.

Given the metrics of micro-batches; gives those of all micro-batches and ranks together, then those of an update:

    kind        micro-batches and ranks    one optimizer step                 optimizer steps of an update
    token_sum   added                      divided by the tokens run: a mean  their mean
    unit_sum    added                      divided by the units run: a mean   their mean
    sum         added                      stands for itself: a mean          their mean
    mean        never                      stands for itself                  their mean
    maximum     largest                    stands for itself                  largest
    minimum     smallest                   stands for itself                  smallest

One kind is no metric: a `per_sequence` value is what `Objective.after_step` is given of each sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

if TYPE_CHECKING:
    import torch

Kind = Literal["token_sum", "unit_sum", "sum", "mean", "maximum", "minimum", "per_sequence"]
SEQUENCE_LOSS = "sequence/loss"
"""(S,), the only name that is per_sequence: the learner takes it out and hands it to `after_step`."""
V = TypeVar("V")


@dataclass(frozen=True)
class Metric(Generic[V]):
    """One value, and how it combines with others of its name."""

    value: V
    kind: Kind


PassMetrics = dict[str, "Metric[torch.Tensor]"]
"""Of one micro-batch or of several: scalars on the device."""
StepMetrics = dict[str, Metric[float]]
"""Of all micro-batches and ranks."""


def token_sum(value: torch.Tensor) -> Metric[torch.Tensor]:
    """Σ over tokens in the loss; the run shows its mean over tokens."""
    return Metric(value, "token_sum")


def unit_sum(value: torch.Tensor) -> Metric[torch.Tensor]:
    """Σ over units (preference pairs); the run shows its mean over units."""
    return Metric(value, "unit_sum")


def maximum(value: torch.Tensor) -> Metric[torch.Tensor]:
    """The largest anywhere."""
    return Metric(value, "maximum")


def minimum(value: torch.Tensor) -> Metric[torch.Tensor]:
    """The smallest anywhere."""
    return Metric(value, "minimum")


def add_metrics(totals: PassMetrics, metrics: PassMetrics) -> None:
    """Take a micro-batch's metrics into `totals`, in float64."""
    import torch

    for name, metric in metrics.items():
        value = metric.value.detach().double()
        if name in totals:
            held, kind = totals[name].value, totals[name].kind
            assert kind == metric.kind, f"{name} is a {kind} in one micro-batch and a {metric.kind} in another"
            if kind == "maximum":
                value = torch.maximum(held, value)
            elif kind == "minimum":
                value = torch.minimum(held, value)
            else:
                assert kind != "mean", f"{name}: means of micro-batches do not combine, their sums do"
                value = held + value
        totals[name] = Metric(value, metric.kind)


def divided(totals: StepMetrics, num_tokens: float, num_units: float) -> StepMetrics:
    """Sums as what they are the sums of: means over tokens and units."""
    denominators: dict[Kind, float] = {"token_sum": num_tokens, "unit_sum": num_units}
    return {
        name: metric
        if metric.kind in ("maximum", "minimum")
        else Metric(metric.value / denominators.get(metric.kind, 1.0), "mean")
        for name, metric in totals.items()
    }


def means(values: Mapping[str, float]) -> StepMetrics:
    """Plain numbers of one optimizer step."""
    return {name: Metric(value, "mean") for name, value in values.items()}


def values_of(metrics: StepMetrics) -> dict[str, float]:
    """Without the kinds: what a run writes down."""
    return {name: metric.value for name, metric in metrics.items()}


def over_steps(steps: Sequence[StepMetrics]) -> dict[str, float]:
    """Of the optimizer steps of one update. A metric counts in the steps that have it."""
    combined: dict[str, float] = {}
    for name in {name: None for step in steps for name in step}:
        metrics = [step[name] for step in steps if name in step]
        values = [metric.value for metric in metrics]
        kind = metrics[0].kind
        assert all(metric.kind == kind for metric in metrics), f"{name} is of different kinds in different steps"
        if kind == "maximum":
            combined[name] = max(values)
        elif kind == "minimum":
            combined[name] = min(values)
        else:
            combined[name] = sum(values) / len(values)
    return combined
