"""SAIL: DPO whose answers and labels may come from the policy itself (Ding et al. 2024, arXiv 2406.15567).

Given preference pairs of the data, some replaced by answers of the policy, some labelled by the policy or a reward
model; the DPO loss and the terms that make its gradient that of the online problem:

    route   answers   label           loss of the pair, F = log σ(z), c the route's coefficient
    data    data      data            −F
    ddp     data      policy          −F − ½·c·F²
    dpp     policy    policy          −F − ½·c·F² − c·sg(F − baseline)·(log π(y_w) + log π(y_l))
    dpr     policy    reward model    −F − c·sg(F − baseline)·(log π(y_w) + log π(y_l))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, Field, model_validator

from raylign.learners.algorithms.facts import RunFacts, RunRows
from raylign.learners.algorithms.preference.pairs import PAIR_VALUE, PairConfig, PairExamples, PairObjective, Pairs
from raylign.learners.algorithms.preference.sail_routing import DATA, DDP, DPP, DPR, RouteDraws
from raylign.learners.examples.example import Example
from raylign.learners.losses.preference import (
    logistic_loss,
    published_response_term,
    response_term,
    robust_probability,
    self_label_loss,
)
from raylign.rollout.sample import Group, PreferencePair

if TYPE_CHECKING:
    import torch

FIRST_BASELINE = float(np.log(0.5))
"""F of a pair whose answers are equally likely."""
BASELINE_MEMORY = 0.9


class RouteConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """One route of SAIL."""

    share: float = Field(0.0, ge=0, lt=1)
    """Probability that a row takes this route."""
    coefficient: float = Field(0.0, ge=0)
    """c: weight of the terms beside DPO's."""


class SailConfig(PairConfig):
    """Self-improving online alignment: DPO, DDP, DPP, DPR, or a mix of them."""

    name: Literal["sail"] = "sail"
    """Which algorithm this is."""
    beta: float = Field(0.1, gt=0)
    """Strength of the pull to the reference."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Share of the data's labels taken for wrong."""
    robust_radius: float | None = Field(None, gt=0)
    """Take the worst label probability within this KL of the given one (distributionally robust); empty: off."""
    ddp: RouteConfig = RouteConfig()
    """Answers of the data, labelled by the policy (r and rho in the paper's code)."""
    dpp: RouteConfig = RouteConfig()
    """Answers of the policy, labelled by the policy (p and pi)."""
    dpr: RouteConfig = RouteConfig()
    """Answers of the policy, labelled by the run's rewards (g and gamma)."""
    swap_labels: bool = True
    """Draw the label of policy-labelled pairs from the policy; false keeps the order of the data."""
    label_term: bool = True
    """Keep the term of the label distribution, −½·c·F²."""
    response_term: Literal["exact", "published"] = "exact"
    """exact: the gradient of the distribution of answers. published: what the paper's code adds, which has another sign
    and size; for comparison only."""
    relabel: Literal["at_generation", "at_use"] = "at_generation"
    """Which policy labels its own answers (dpp): the one that gave them, or the one being trained."""
    baseline: Literal["none", "mean"] = "none"
    """Subtracted from F in the response term: nothing, or the mean F of past answers (less noise, same gradient)."""
    reverse_kl_coef: float = Field(0.0, ge=0)
    """Weight of KL(policy‖reference) on the policy's own answers (SAIL-RevKL)."""

    @model_validator(mode="after")
    def _data_is_left(self) -> Self:
        if self.generated_share + self.ddp.share >= 1:
            raise ValueError(
                f"ddp.share + dpp.share + dpr.share is {self.generated_share + self.ddp.share:g}: it must stay below "
                "1, or no row of the data would be learned from as it stands"
            )
        return self

    @property
    def generated_share(self) -> float:
        """Share of rows answered by the policy."""
        return self.dpp.share + self.dpr.share

    @property
    def needs_rollouts(self) -> bool:
        return self.generated_share > 0

    @property
    def needs_rewards(self) -> bool:
        return self.dpr.share > 0

    @property
    def min_group_size(self) -> int:
        return 2 if self.needs_rollouts else 1

    @property
    def epoch_stretch(self) -> float:
        """So that as many rows are learned from as they stand."""
        return 1 / (1 - self.generated_share - self.ddp.share)

    def build_objective(self, max_staleness: int = 0, rows: RunRows | None = None) -> Sail:
        return Sail(self)

    def build_examples(
        self, seed: int = 0, rows_per_step: int = 1, reward_weights: Mapping[str, float] | None = None
    ) -> SailExamples:
        return SailExamples(self, seed, rows_per_step)

    def idle_settings(self, num_steps: int) -> Iterator[str]:
        for name in ("ddp", "dpp", "dpr"):
            route: RouteConfig = getattr(self, name)
            if route.coefficient and not route.share:
                yield (
                    f"algorithm.{name}.coefficient is {route.coefficient:g} and algorithm.{name}.share is 0: no row "
                    "takes this route, so the coefficient does nothing"
                )

    def problems(self, run: RunFacts) -> Iterator[str]:
        if not self.needs_rollouts:
            return
        sampling = run.sampling
        if sampling.num_completions != 2:
            yield f"sampling.num_completions is {sampling.num_completions}: sail makes a pair of 2 answers"
        if run.max_staleness > 0 and not run.drops_stale:
            yield "async.stale is mask: a pair cannot be learned from in part; set async.stale to drop"
        if self.dpp.share and self.relabel == "at_generation" and sampling.temperature != 1:
            yield (
                f"sampling.temperature is {sampling.temperature:g}: engines then report log-probs that are not "
                "the policy's own, and no label can be drawn from them; set algorithm.relabel to at_use, or the "
                "temperature to 1"
            )
        if run.replay:
            yield f"replay is {run.replay}: sail draws from rows and recorded answers together, which is not supported"


class Sail(PairObjective[SailConfig]):
    """Implements `pair_loss`."""

    def __init__(self, config: SailConfig) -> None:
        super().__init__(config)
        self.beta = config.beta
        self._baseline = FIRST_BASELINE if config.baseline == "mean" else 0.0

    def pair_loss(self, pairs: Pairs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The table at the head of this file."""
        config = self.config
        z = config.beta * pairs.h
        route = pairs.facts["route"]
        is_ddp, is_dpp, is_dpr = route == DDP, route == DPP, route == DPR
        swapped = self._swapped(z, pairs) & (is_ddp | is_dpp)
        z = z.where(~swapped, -z)
        of_label = config.ddp.coefficient * is_ddp + config.dpp.coefficient * is_dpp
        of_response = config.dpp.coefficient * is_dpp + config.dpr.coefficient * is_dpr
        return self._terms(z, pairs, of_label if config.label_term else 0.0 * of_label, of_response, swapped)

    def _terms(
        self, z: torch.Tensor, pairs: Pairs, of_label: torch.Tensor, of_response: torch.Tensor, swapped: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        from torch.nn.functional import logsigmoid

        config = self.config
        route = pairs.facts["route"]
        is_data, is_generated = route == DATA, route >= DPP
        probability = pairs.facts["probability"]
        if config.robust_radius is not None:
            probability = robust_probability(probability, z, config.robust_radius)
        losses = logistic_loss(z, probability, config.label_smoothing)
        losses = losses.where(is_data, self_label_loss(z, of_label))
        losses = losses + self._response_term(z, pairs, of_response)
        if config.reverse_kl_coef:
            # ∇½(log π − log π₀)² on the policy's own answers is the gradient of KL(π‖π₀)
            squares = 0.5 * (pairs.chosen_log_ratios.square() + pairs.rejected_log_ratios.square())
            losses = losses + config.reverse_kl_coef * is_generated * squares
        f = logsigmoid(z.detach())
        return losses, {
            "sail/log_sigmoid": f,
            "sail/swapped_share": swapped.float(),
            # from F < −1/c on the label term turns the gradient of a badly ranked pair around
            "sail/reversed_share": (f * of_label < -1).float(),
            **{f"sail/{name}_share": (route == code).float() for name, code in ROUTES.items()},
            PAIR_VALUE: f,
        }

    def _response_term(self, z: torch.Tensor, pairs: Pairs, coefficient: torch.Tensor) -> torch.Tensor:
        logps = pairs.chosen_logps, pairs.rejected_logps
        if self.config.response_term == "published":
            return published_response_term(z, *logps, coefficient, pairs.num_pairs)
        return response_term(z, *logps, coefficient, baseline=self._baseline)

    def _swapped(self, z: torch.Tensor, pairs: Pairs) -> torch.Tensor:
        """(P,) bool: the label that the policy drew, given a uniform number that belongs to the row."""
        if not self.config.swap_labels:
            return z.new_zeros(len(z)).bool()
        z_of_label = z.detach()
        if self.config.relabel == "at_generation":
            reference_h = (pairs.chosen_logps - pairs.rejected_logps).detach() - pairs.h.detach()
            z_then = self.config.beta * (
                pairs.facts["rollout_logp"] - pairs.rejected_facts["rollout_logp"] - reference_h
            )
            z_of_label = z_then.where(pairs.facts["route"] == DPP, z_of_label)
        return pairs.facts["uniform"] >= z_of_label.sigmoid()

    def after_step(self, examples: Sequence[Example], losses: Sequence[float]) -> dict[str, float]:
        """The baseline follows F of the policy's own pairs."""
        values = [loss for example, loss in zip(examples, losses, strict=True) if example.facts["route"] >= DPP]
        if not values or self.config.baseline == "none":
            return {}
        self._baseline = BASELINE_MEMORY * self._baseline + (1 - BASELINE_MEMORY) * float(np.mean(values))
        return {"sail/baseline": self._baseline}

    def state(self) -> dict[str, Any]:
        return {"baseline": self._baseline}

    def load_state(self, state: dict[str, Any]) -> None:
        self._baseline = state["baseline"]


class SailExamples(PairExamples):
    """Pairs of the data with their routes, and pairs made of the policy's answers."""

    def __init__(self, config: SailConfig, seed: int, rows_per_step: int) -> None:
        shares = [config.ddp.share, config.dpp.share, config.dpr.share]
        self._routes = RouteDraws(seed, rows_per_step, shares)
        self.routing = self._routes if config.needs_rollouts else None

    def facts_of(self, pair: PreferencePair, is_training: bool) -> dict[str, float]:
        route, uniform = (DATA, 0.0)
        if is_training and (route := self._routes.route(pair.prompt.ordinal)) == DDP:
            uniform = self._routes.uniform(pair.prompt.ordinal)
        return {"probability": pair.probability, "route": route, "uniform": uniform, "rollout_logp": 0.0}

    def from_groups(self, groups: Sequence[Group]) -> list[Example]:
        """Two examples for each group of two answers, the better one first where rewards say so. The groups' ordinals
        count generated rows only. Groups without two whole answers, or without the scores that should label them, make
        no pair; the step's metrics count them."""
        examples: list[Example] = []
        for unit, group in enumerate(groups):
            row = self._routes.row_of(group.prompt.ordinal)
            route = self._routes.route(row)
            if not _makes_a_pair(group, needs_scores=route == DPR):
                continue
            order = [0, 1]
            if route == DPR:
                assert group.total_rewards is not None, "scored before it came here"
                order = [1, 0] if group.total_rewards[0] < group.total_rewards[1] else [0, 1]
            for index, side in zip(order, (1.0, -1.0), strict=True):
                completion = group.completions[index]
                facts = {"probability": 1.0, "route": route, "uniform": self._routes.uniform(row), "side": side}
                facts["rollout_logp"] = float(completion.logps.sum())
                versions = np.repeat(
                    np.array([span.version for span in completion.version_spans], np.int32),
                    [span.end - span.start for span in completion.version_spans],
                )
                mask = np.ones(len(completion.token_ids), np.float32)
                examples.append(
                    Example(
                        group.prompt.token_ids,
                        completion.token_ids,
                        loss_mask=mask,
                        token_versions=versions,
                        group=row,
                        unit=unit,
                        facts=facts,
                    )
                )
        return examples


def _makes_a_pair(group: Group, needs_scores: bool) -> bool:
    if len(group.completions) != 2 or any(c.stop_reason == "aborted" for c in group.completions):
        return False
    if not needs_scores:
        return True
    return group.total_rewards is not None and bool(np.isfinite(group.total_rewards).all())


ROUTES = {"data": DATA, "ddp": DDP, "dpp": DPP, "dpr": DPR}
