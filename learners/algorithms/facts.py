"""What a training method and a run tell each other, as plain values.

Given by the run to the method: `RunFacts` (to be checked), `RunRows` (to every rank). Given by the method to the run:
how groups are sampled again, which rows the policy answers, when answers are renewed, which rows count as kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import BaseModel, Field

from raylign.rollout.sampling import SamplingConfig

CurriculumKind = Literal["prompts", "demonstrations", "pairs", "two_levels"]
"""What rows of the data are to a method. prompts: the policy answers them; demonstrations: prompt, response; pairs:
prompt, chosen, rejected; two_levels: rows to weigh, and trusted ones."""


@dataclass(frozen=True)
class RunFacts:
    """What a run's config says outside its section `algorithm`."""

    sampling: SamplingConfig
    prompts_per_step: int
    max_staleness: int
    drops_stale: bool
    """Groups with a token beyond the bound are dropped; False: the token is masked."""
    replay: str | None
    """The recorded run that is trained on."""


@dataclass(frozen=True)
class RunRows:
    """The rows of a run, for what a method learns about them."""

    num_rows: int
    fingerprint: str
    """Of the rows and their order."""
    rows_per_step: int
    num_steps: int


class DynamicSampling(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """Groups that the algorithm does not accept are replaced by new ones before the step."""

    max_rounds: int = Field(10, ge=1)
    """How many times a step may ask for replacements."""
    on_exhausted: Literal["fail", "smaller_batch"] = "fail"
    """After that many rounds: end the run, or train on the groups that are there."""


class Routing(Protocol):
    """Some rows of a step are answered by the policy, and numbered by themselves: generated ordinals, from 0."""

    def generated_before(self, step: int) -> int:
        """Rows that the policy answers in the steps before `step`."""

    def row_of(self, generated_ordinal: int) -> int:
        """The ordinal of a generated row in the run's order."""

    def kept_rows(self, step: int) -> list[int]:
        """Ordinals of the rows of `step` that are learned from with the data's own answers."""


@dataclass(frozen=True)
class RefreshPlan:
    """Rows whose responses the policy's answers replace, and when the answers are made anew."""

    dynamic: bool
    """Rows of the smallest weights at each refresh; False: drawn once."""
    masked_share: float
    every_steps: int
    warmup_steps: int


@dataclass(frozen=True)
class SelectionPlan:
    """Which weighed rows count as kept."""

    kept_share: float | None
    """Share of rows, by logit; None: those that weigh no less than all did at the start."""
    export_share: float | None
    """Share of rows written out for a fresh run; None: none are."""
