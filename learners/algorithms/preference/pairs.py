"""What the algorithms share that learn from preference pairs (DPO, IPO, BoNBoN, reward model, SAIL).

Given pairs; gives two examples of one unit for each, and around an algorithm's own loss of a pair the sums over its
answers:   loss = mean over pairs of pair_loss(h, …).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

import numpy as np

from raylign.learners.algorithms.base import BaseAlgorithmConfig, ExampleMaker, PlainObjective
from raylign.learners.algorithms.facts import CurriculumKind
from raylign.learners.examples.example import Example, Normalizers
from raylign.learners.meters.metric import SEQUENCE_LOSS, Metric, PassMetrics, unit_sum
from raylign.rollout.sample import IntArray, PreferencePair

if TYPE_CHECKING:
    import torch

    from raylign.learners.examples.micro_batch import MicroBatch

CHOSEN, REJECTED = 1.0, -1.0
PAIR_VALUE = "pair/value"


class PairConfig(BaseAlgorithmConfig):
    """Keys of every algorithm that learns from preference pairs."""

    curriculum: ClassVar[CurriculumKind] = "pairs"
    name: str
    """Which algorithm this is."""

    @property
    def needs_reference(self) -> bool:
        return True

    def build_examples(
        self, seed: int = 0, rows_per_step: int = 1, reward_weights: Mapping[str, float] | None = None
    ) -> PairExamples:
        return PairExamples()


@dataclass(frozen=True)
class Pairs:
    """The pairs of one micro-batch; P of them."""

    h: torch.Tensor
    """(P,) difference of the log-ratios."""
    chosen_logps: torch.Tensor
    """(P,) log π(y_w), summed over its tokens."""
    rejected_logps: torch.Tensor
    """(P,)"""
    chosen_log_ratios: torch.Tensor
    """(P,) log π(y_w) − log π₀(y_w)."""
    rejected_log_ratios: torch.Tensor
    """(P,)"""
    chosen_lengths: torch.Tensor
    """(P,) tokens of y_w."""
    facts: dict[str, torch.Tensor]
    """(P,) each: `Example.facts` of y_w."""
    rejected_facts: dict[str, torch.Tensor]
    """(P,) each: of y_l."""
    num_pairs: float
    """Of the global batch, which the mean of the loss is over."""


C = TypeVar("C", bound=PairConfig)


class PairExamples(ExampleMaker):
    """Two examples of one unit for each pair."""

    def from_pairs(self, pairs: Sequence[PreferencePair], is_training: bool = True) -> list[Example]:
        examples: list[Example] = []
        for unit, pair in enumerate(pairs):
            facts = self.facts_of(pair, is_training)
            for side, ids in ((CHOSEN, pair.chosen_ids), (REJECTED, pair.rejected_ids)):
                examples.append(self._answer(pair, unit, ids, {**facts, "side": side}))
        return examples

    def facts_of(self, pair: PreferencePair, is_training: bool) -> dict[str, float]:
        """What `pair_loss` reads of a pair."""
        return {"probability": pair.probability}

    def _answer(self, pair: PreferencePair, unit: int, ids: IntArray, facts: dict[str, float]) -> Example:
        mask = np.ones(len(ids), np.float32)
        return Example(pair.prompt.token_ids, ids, loss_mask=mask, group=pair.prompt.ordinal, unit=unit, facts=facts)


class PairObjective(PlainObjective, Generic[C], ABC):
    """Implements `loss`; subclasses give `pair_loss`."""

    beta = 1.0
    """An implicit reward is so many log-ratios; scores count as they are."""

    def __init__(self, config: C) -> None:
        self.config = config
        self.needs_reference = config.needs_reference

    @abstractmethod
    def pair_loss(self, pairs: Pairs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """(P,) losses, and (P,) metrics; the one named `PAIR_VALUE` goes to `after_step` instead."""

    def loss(
        self, logps: torch.Tensor, entropies: torch.Tensor, batch: MicroBatch, normalizers: Normalizers
    ) -> tuple[torch.Tensor, PassMetrics]:
        """Mean over the pairs of the global batch."""
        num_pairs = normalizers.num_sequences / 2
        pairs, counts = pairs_in(logps, batch, num_pairs)
        losses, metrics = self.pair_loss(pairs)
        margins = self.beta * pairs.h.detach()
        metrics |= {
            "preference/accuracy": (margins > 0).float(),
            "preference/margin": margins,
            "preference/chosen_logp": pairs.chosen_logps.detach(),
            "preference/rejected_logp": pairs.rejected_logps.detach(),
        }
        sums = {name: unit_sum((value * counts).sum()) for name, value in metrics.items() if name != PAIR_VALUE}
        if PAIR_VALUE in metrics:
            sums[SEQUENCE_LOSS] = Metric(metrics[PAIR_VALUE][batch.unit_index], "per_sequence")
        return (losses * counts).sum() / num_pairs, sums


def pairs_in(logps: torch.Tensor, batch: MicroBatch, num_pairs: float = 1.0) -> tuple[Pairs, torch.Tensor]:
    """The pairs, and (P,) 1 for each but for a stand-in, 0. `num_pairs`: of the global batch."""
    side_S = batch.facts["side"]
    is_chosen_S, is_rejected_S = (side_S > 0).float(), (side_S < 0).float()

    def of_sequences(values_N: torch.Tensor) -> torch.Tensor:
        zeros = values_N.new_zeros(len(batch.sequence_lengths))
        return zeros.index_add(0, batch.sequence_index, values_N * batch.loss_mask)

    def of_pairs(values_S: torch.Tensor) -> torch.Tensor:
        return values_S.new_zeros(batch.num_units).index_add(0, batch.unit_index, values_S)

    logps_S = of_sequences(logps)
    ratios_S = logps_S if batch.reference_logps is None else logps_S - of_sequences(batch.reference_logps)
    chosen_ratios, rejected_ratios = of_pairs(ratios_S * is_chosen_S), of_pairs(ratios_S * is_rejected_S)
    pairs = Pairs(
        h=chosen_ratios - rejected_ratios,
        chosen_logps=of_pairs(logps_S * is_chosen_S),
        rejected_logps=of_pairs(logps_S * is_rejected_S),
        chosen_log_ratios=chosen_ratios,
        rejected_log_ratios=rejected_ratios,
        chosen_lengths=of_pairs(batch.sequence_lengths * is_chosen_S),
        facts={name: of_pairs(value * is_chosen_S) for name, value in batch.facts.items()},
        rejected_facts={name: of_pairs(value * is_rejected_S) for name, value in batch.facts.items()},
        num_pairs=num_pairs,
    )
    return pairs, of_pairs(is_chosen_S)
