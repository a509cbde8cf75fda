"""Corrections: weights for tokens that another policy sampled than the one that is updated.

Given log π_old (the learner's, at the start of the update) and log π_roll (the engine's, of whatever version); gives
detached weights that multiply the policy loss before it is added up. Denominators keep every token, the KL none of it.
Engine mismatch and staleness are one ratio, ρ = π_old/π_roll: it is applied once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, Field, model_validator

from raylign.learners.losses.proximal import Proximal
from raylign.rollout.sample import FloatArray, IntArray

if TYPE_CHECKING:
    import torch

CorrectionKind = Literal[
    "auto",
    "none",
    "token_truncate",
    "sequence_truncate",
    "token_mask",
    "sequence_mask",
    "icepop",
    "geometric_filter",
    "decoupled",
]
BOUNDS: dict[str, tuple[float, float]] = {
    "token_truncate": (0.0, 2.0),
    "sequence_truncate": (0.0, 3.0),
    "token_mask": (0.0, 2.0),
    "sequence_mask": (0.0, 3.0),
    "icepop": (0.5, 5.0),
    "geometric_filter": (0.999, 1.001),
    "decoupled": (0.0, 5.0),
}
"""(low, cap) where the config leaves them empty."""
READS_LOW = ("icepop", "geometric_filter")
MASKS = ("token_mask", "sequence_mask", "icepop", "geometric_filter")
OF_SEQUENCES = ("sequence_truncate", "sequence_mask")


class CorrectionConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """What is done about tokens sampled from another policy: engine mismatch, and staleness in asynchronous runs."""

    kind: CorrectionKind = "auto"
    """How ρ = π_old/π_roll weighs the policy loss; auto: none in a synchronous run, else decoupled."""
    cap: float | None = Field(None, gt=0)
    """Upper bound of ρ (of its product or geometric mean over a sequence); empty: 2 for tokens, 3 for sequences, 5 for
    icepop and decoupled, 1.001 for geometric_filter."""
    low: float | None = Field(None, ge=0)
    """Lower bound of icepop (empty: 0.5) and geometric_filter (empty: 0.999)."""
    over: Literal["truncate", "mask"] = "truncate"
    """decoupled: weights over the cap are cut to it, or their tokens left out."""
    proximal: Proximal = "recompute"
    """decoupled: π_old is recomputed, interpolated from versions (loglinear), or π_roll itself (weights are 1)."""
    alarm_below: float = Field(0.5, ge=0, le=1)
    """Warn when the weights of a step count as if only this share of its tokens were there (effective sample size; of
    the ratios where nothing weighs them); 0: never."""

    @model_validator(mode="after")
    def _keys_belong_to_the_kind(self) -> Self:
        low, cap = self.bounds
        for key, is_read in (
            ("cap", self.kind in BOUNDS),
            ("low", self.kind in READS_LOW),
            ("over", self.kind == "decoupled"),
            ("proximal", self.kind == "decoupled"),
        ):
            if (
                key in self.model_fields_set
                and getattr(self, key) != type(self).model_fields[key].default
                and not is_read
            ):
                raise ValueError(f"{key} is {getattr(self, key)}: kind {self.kind} does not read it; leave it out")
        if low >= cap:
            raise ValueError(f"low is {low} and cap is {cap}: no ratio lies between them")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """(low, cap), with the kind's own values where empty."""
        low, cap = BOUNDS.get(self.kind, (0.0, float("inf")))
        return low if self.low is None else self.low, cap if self.cap is None else self.cap

    def resolved(self, max_staleness: int) -> CorrectionConfig:
        """The same with `auto` decided."""
        if self.kind != "auto":
            return self
        kind: CorrectionKind = "decoupled" if max_staleness > 0 else "none"
        return self.model_copy(update={"kind": kind})

    @property
    def weighs(self) -> bool:
        """Whether samples of another policy are weighed by how likely the learner finds them."""
        filters_only = self.kind in ("none", "geometric_filter")
        return not filters_only and not (self.kind == "decoupled" and self.proximal == "rollout")


class Correction(NamedTuple):
    """Weights of the policy loss and what they did."""

    weights: torch.Tensor
    """(N,) detached."""
    truncated: torch.Tensor
    """(N,) bool: the ratio was cut to the cap."""
    masked: torch.Tensor
    """(N,) bool: the token counts nothing."""


def correction_weights(
    config: CorrectionConfig,
    old_logps: torch.Tensor,
    rollout_logps: torch.Tensor,
    loss_mask: torch.Tensor,
    sequence_index: torch.Tensor,
    sequence_lengths: torch.Tensor,
) -> Correction:
    """(N,) weights of a `resolved` config (which paper and library: docs/algorithms/policy_gradient.md).

    Sequence ratios are over the tokens in the loss; sequences are never split over micro-batches.
    """
    import torch

    assert config.kind != "auto", "`resolved` comes first"
    with torch.no_grad():
        log_ratio = (old_logps - rollout_logps) * loss_mask
        nothing = torch.zeros_like(loss_mask, dtype=torch.bool)
        if config.kind == "none":
            return Correction(torch.ones_like(loss_mask), nothing, nothing)
        low, cap = config.bounds
        if config.kind in OF_SEQUENCES or config.kind == "geometric_filter":
            log_ratio = torch.zeros_like(sequence_lengths).index_add(0, sequence_index, log_ratio)
            if config.kind == "geometric_filter":
                log_ratio = log_ratio / sequence_lengths.clamp(min=1)
            log_ratio = log_ratio[sequence_index]
        ratio = log_ratio.exp()
        outside = (ratio < low) | (ratio > cap)
        if config.kind in MASKS or (config.kind == "decoupled" and config.over == "mask"):
            kept = torch.ones_like(ratio) if config.kind == "geometric_filter" else ratio
            return Correction(torch.where(outside, 0.0, kept), nothing, outside)
        return Correction(ratio.clamp(max=cap), outside, nothing)


def loglinear_share(token_versions: IntArray, proximal_version: float, current_version: float) -> FloatArray:
    """(T,) α of log π_prox ≈ log π_roll + α·(log π_θ − log π_roll): (v_prox − v_roll)/(v_θ − v_roll), 0 if equal."""
    behind = np.asarray(current_version - token_versions, np.float64)
    share = np.divide(proximal_version - token_versions, behind, out=np.zeros_like(behind), where=behind != 0)
    return share.astype(np.float32)
