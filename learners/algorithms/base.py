"""What an algorithm is: how groups become examples, and the loss on them.

Given groups from rollouts (or demonstrations), gives `Example`s and a loss over a micro-batch of them.
The loop, the rollouts and the learner do not know the names of algorithms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import BaseModel, Field

from raylign.learners.examples.example import Example, Normalizers
from raylign.learners.losses.proximal import Proximal
from raylign.learners.meters.metric import PassMetrics
from raylign.rollout.sample import Group

if TYPE_CHECKING:
    import torch

    from raylign.learners.examples.micro_batch import MicroBatch


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


class Algorithm(Protocol):
    """One training method."""

    needs_rollouts: bool
    """False for methods that learn from demonstrations only (sft)."""
    needs_reference: bool
    """True when log π_ref is used, in the loss or in the reward."""
    num_updates: int
    """Optimizer steps on one batch of examples (mini-batches); old_logps are recomputed before the first when > 1."""
    min_group_size: int
    """Fewest completions of one prompt that give an advantage."""
    dynamic_sampling: DynamicSampling | None
    """Set where groups that `accepts` refuses are to be replaced."""
    proximal: Proximal
    """Where the learner takes π_old from."""
    completes_batch: bool
    """True when `complete` must run on the whole batch before the loss."""
    needs_old_logps: bool
    """True when `complete` reads old_logps, so that they are filled even for a single optimizer step."""
    skips_zero_advantages: bool
    """True when a sequence whose advantages are all 0 adds nothing to the gradient."""
    entropy_has_gradient: bool
    """True when the loss differentiates entropies."""
    alarm_below: float
    """Effective sample size share under which a run warns; 0: never."""
    model_kind: Literal["policy", "scorer"]
    """scorer: a sequence-classification model, whose scores stand where log-probs stand otherwise (reward_model)."""

    learns_from_rows: bool
    """True where answers of the data set are learned from, besides or instead of sampled ones."""
    routing: Routing | None
    """Which rows of the data the policy answers; None: all of them (needs_rollouts), or none."""

    def open(self, seed: int, rows_per_step: int) -> None:
        """Told once where the loop runs, before anything else: the run's seed, and rows of one step."""

    def accepts(self, group: Group) -> bool:
        """False for a scored group that teaches nothing and is to be replaced."""

    def examples(self, groups: Sequence[Group]) -> list[Example]:
        """Examples to train on, given all groups of the step together: some advantages compare groups."""

    def complete(self, examples: list[Example]) -> list[Example]:
        """The examples with final advantages, given all of one update, log-probs filled. Same result on every rank."""

    def after_step(self, examples: Sequence[Example], losses: Sequence[float]) -> dict[str, float]:
        """Learn beside the model (a data selector, say) from the examples of one optimizer step and the `sequence/loss`
        of each, on every rank the same; gives metrics. Called only where `loss` gives `sequence/loss`."""

    def state(self) -> dict[str, Any]:
        """What the algorithm has learned beside the model (a data selector, say), the same on every rank; checkpoints
        keep it."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""

    def loss(
        self, logps: torch.Tensor, entropies: torch.Tensor, batch: MicroBatch, normalizers: Normalizers
    ) -> tuple[torch.Tensor, PassMetrics]:
        """This micro-batch's share of the global loss (shares of all micro-batches add up to the loss), and metrics.

        `logps`, `entropies`: (N,) over the N completion tokens of the micro-batch, in the order of `batch`'s
        flat fields. Metrics are scalars that say by their kind how they combine over micro-batches, ranks and steps
        (learners/meters/metric.py); `SEQUENCE_LOSS`, (S,), goes to `after_step`.
        """


class PlainAlgorithm:
    """What most algorithms leave as it is: nothing refused, nothing completed, nothing learned beside the model."""

    dynamic_sampling: DynamicSampling | None = None
    completes_batch = False
    model_kind: Literal["policy", "scorer"] = "policy"
    routing: Routing | None = None

    def open(self, seed: int, rows_per_step: int) -> None:
        pass

    def accepts(self, group: Group) -> bool:
        return True

    def complete(self, examples: list[Example]) -> list[Example]:
        return examples

    def after_step(self, examples: Sequence[Example], losses: Sequence[float]) -> dict[str, float]:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        pass
