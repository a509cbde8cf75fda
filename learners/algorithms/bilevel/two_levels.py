"""What BDR and BDR_Online share: trusted rows above, weighed rows below, and a selector that learns the weights.

Given the examples of one step; gives the penalty form of the bilevel problem (Xiao & Chen 2025, arXiv 2511.21056;
public code BIPOST). λ falls with each pass over the weighed rows, never below 0 (there it turned negative).

    model     min_θ   λ·U(θ) + (1−λ)·(1/B)·Σ_i sg(factor_i)·ℓ_i(θ)          U: SFT, DPO or IPO on the trusted rows
    selector  min_ω   (1/B)·Σ_i w_i(ω)·sg(ℓ_i(θ))                           ℓ_i: mean NLL over the tokens of row i
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
from pydantic import Field

from raylign.learners.algorithms.base import BaseAlgorithmConfig, PlainObjective
from raylign.learners.algorithms.bilevel.level_rows import LOWER, UPPER, LevelExamples, counts_above, rows_by_entry
from raylign.learners.algorithms.bilevel.selector import Selector, SelectorConfig
from raylign.learners.algorithms.facts import CurriculumKind, RunRows, SelectionPlan
from raylign.learners.algorithms.preference.pairs import pairs_in
from raylign.learners.examples.example import Example, Normalizers
from raylign.learners.losses.policy import nll
from raylign.learners.losses.preference import logistic_loss, square_loss
from raylign.learners.meters.metric import SEQUENCE_LOSS, Metric, PassMetrics, token_sum

if TYPE_CHECKING:
    import torch

    from raylign.learners.examples.micro_batch import MicroBatch


class TwoLevelConfig(BaseAlgorithmConfig):
    """Keys of both."""

    curriculum: ClassVar[CurriculumKind] = "two_levels"
    name: str
    """Which algorithm this is."""
    upper: Literal["sft", "dpo", "ipo"] = "sft"
    """Loss on the trusted rows: on demonstrations, or on preference pairs."""
    upper_share: float = Field(0.5, ge=0, le=1)
    """λ: weight of the trusted rows' loss; that of the weighed rows has 1 − λ."""
    upper_share_decay: float = Field(0.1, ge=0)
    """How much λ falls after each pass over the weighed rows; it stops at 0."""
    beta: float = Field(0.1, gt=0)
    """Strength of the pull to the reference, for pairs above."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Share of labels taken for wrong, for `upper: dpo`."""
    export_top_p: float | None = Field(None, gt=0, le=1)
    """Share of rows, by logit, written to selected.jsonl for a fresh sft (SEAL); empty: none are written."""
    selector: SelectorConfig = SelectorConfig()

    @property
    def needs_reference(self) -> bool:
        return self.upper != "sft"

    @property
    def trusted_kind(self) -> Literal["demonstrations", "pairs"]:
        return "demonstrations" if self.upper == "sft" else "pairs"

    @property
    def gated_share(self) -> float | None:
        """Share of a batch's rows that a gate leaves out of the model's loss; None: weights multiply the losses."""
        return None

    @property
    def selection(self) -> SelectionPlan:
        kept_share = self.export_top_p
        if kept_share is None and self.gated_share is not None:
            kept_share = 1 - self.gated_share
        return SelectionPlan(kept_share, self.export_top_p)

    def build_examples(
        self, seed: int = 0, rows_per_step: int = 1, reward_weights: Mapping[str, float] | None = None
    ) -> LevelExamples:
        return LevelExamples(self.refresh is not None)


def upper_share(config: TwoLevelConfig, epoch: int) -> float:
    """λ of one pass over the weighed rows, counted from 0."""
    return max(0.0, config.upper_share - epoch * config.upper_share_decay)


C = TypeVar("C", bound=TwoLevelConfig)


class TwoLevelObjective(PlainObjective, Generic[C], ABC):
    """Implements `Objective`; subclasses say what a weight does to the model's loss."""

    completes_batch = True

    def __init__(self, config: C, rows: RunRows) -> None:
        self.config = config
        self.needs_reference = config.needs_reference
        self._rows = rows
        self._num_steps = 0
        self.selector = Selector(config.selector, rows.num_rows, rows.num_steps)

    @abstractmethod
    def factors(self, weights: Sequence[float]) -> list[float]:
        """What multiplies the loss of each row of a batch, given their weights."""

    def token_losses(self, logps: torch.Tensor, batch: MicroBatch) -> tuple[torch.Tensor, PassMetrics]:
        """(N,) and metrics."""
        return nll(logps), {}

    @property
    def upper_share_now(self) -> float:
        """λ of the next step."""
        return upper_share(self.config, self._num_steps * self._rows.rows_per_step // self._rows.num_rows)

    def complete(self, examples: list[Example]) -> list[Example]:
        """Coefficients from λ, the weights and the sizes of both levels: the loss is linear in them, and so does not
        depend on how the batch is split."""
        rows, weights_N = rows_by_entry(examples), self.selector.weights()
        factors = dict(zip(rows, self.factors([float(weights_N[row]) for row in rows.values()]), strict=True))
        self._passed_share = sum(factor > 0 for factor in factors.values()) / max(1, len(factors))
        share, num_upper = self.upper_share_now, sum(map(counts_above, examples))
        completed = []
        for example in examples:
            facts = example.facts
            if facts["level"] == UPPER:
                coefficient = share / num_upper if counts_above(example) else 0.0
            else:
                coefficient = (1 - share) * factors[int(facts["entry"])] * facts["share"] / len(rows)
            completed.append(replace(example, facts={**facts, "coefficient": coefficient}))
        return completed

    def loss(
        self, logps: torch.Tensor, entropies: torch.Tensor, batch: MicroBatch, normalizers: Normalizers
    ) -> tuple[torch.Tensor, PassMetrics]:
        """Σ coefficient·ℓ over sequences; a pair above is one term."""
        token_losses, metrics = self.token_losses(logps, batch)
        token_losses = token_losses * batch.loss_mask
        sums_S = token_losses.new_zeros(len(batch.sequence_lengths)).index_add(0, batch.sequence_index, token_losses)
        losses_S = sums_S / batch.sequence_lengths.clamp(min=1)
        if self.config.upper != "sft":
            pairs, _ = pairs_in(logps, batch)
            losses_P = self._pair_losses(pairs.h, pairs.facts["probability"])
            losses_S = losses_S.where(batch.facts["side"] == 0, losses_P[batch.unit_index])
        metrics |= {
            "learner/entropy": token_sum((entropies * batch.loss_mask).sum()),
            SEQUENCE_LOSS: Metric(losses_S.detach(), "per_sequence"),
        }
        return (batch.facts["coefficient"] * losses_S).sum(), metrics

    def _pair_losses(self, h: torch.Tensor, probability: torch.Tensor) -> torch.Tensor:
        if self.config.upper == "ipo":
            return square_loss(h, self.config.beta)
        return logistic_loss(self.config.beta * h, probability, self.config.label_smoothing)

    def after_step(self, examples: Sequence[Example], losses: Sequence[float]) -> dict[str, float]:
        """The selector's step, on losses of before the model's."""
        rows = rows_by_entry(examples)
        losses_B = dict.fromkeys(rows, 0.0)
        for example, loss in zip(examples, losses, strict=True):
            if example.facts["level"] == LOWER:
                losses_B[int(example.facts["entry"])] += example.facts["share"] * loss
        upper = [loss for example, loss in zip(examples, losses, strict=True) if counts_above(example)]
        sampled = {example.facts["entry"] for example in examples if example.facts["sampled"]}
        metrics = {
            **self._metrics(list(rows.values()), np.array(list(losses_B.values()))),
            "selection/upper_loss": float(np.mean(upper)),
            "selection/sampled_share": len(sampled) / max(1, len(rows)),
        }
        settings, entries = self.config.selector, list(rows)
        size = settings.micro_rows if settings.step_every == "micro" else max(1, len(entries))
        for start in range(0, len(entries), size):
            part = entries[start : start + size]
            self.selector.step([rows[entry] for entry in part], [losses_B[entry] for entry in part])
        self._num_steps += 1
        return metrics

    def _metrics(self, rows: list[int], losses_B: np.ndarray) -> dict[str, float]:
        weights_N = self.selector.weights()
        weights_B = weights_N[rows]
        low, middle, high = np.quantile(weights_N, [0.25, 0.5, 0.75])
        return {
            "selection/upper_share": self.upper_share_now,
            "selection/lower_loss": float(losses_B.mean()),
            "selection/weighted_lower_loss": float((weights_B * losses_B).mean()),
            "selection/passed_share": self._passed_share,
            "selection/batch_weight_mean": float(weights_B.mean()),
            "selection/batch_weight_std": float(weights_B.std()),
            "selection/weight_min": float(weights_N.min()),
            "selection/weight_low_quarter": float(low),
            "selection/weight_median": float(middle),
            "selection/weight_high_quarter": float(high),
            "selection/weight_max": float(weights_N.max()),
        }

    def state(self) -> dict[str, Any]:
        rows = self._rows
        weighed = {"fingerprint": rows.fingerprint, "num_rows": rows.num_rows, "weights": self.selector.weights()}
        return {**self.selector.state(), **weighed, "num_batches": self._num_steps}

    def load_state(self, state: dict[str, Any]) -> None:
        here = self._rows
        if (state["fingerprint"], state["num_rows"]) != (here.fingerprint, here.num_rows):
            raise ValueError(
                f"the selector of this checkpoint weighs {state['num_rows']} rows with fingerprint "
                f"{state['fingerprint']}, and `data` has {here.num_rows} with {here.fingerprint}: its weights belong "
                "to other rows; give the data set (and mapping, range, context length) that it was learned on"
            )
        self.selector.load_state(state)
        self._num_steps = int(state["num_batches"])
