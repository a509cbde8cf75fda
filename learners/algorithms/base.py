"""What a training method is: a config that says what it asks of a run, and builds its two halves.

    examples    in the driver, for its curriculum: which groups teach, what groups and rows become
    objective   on every rank: which log-probs it needs, the loss, what is learned beside the model

Each half is whole where it is built, and neither knows the other. The loop, the log, the rollouts, the curricula and
the learner know these three and no method's name; a test of the layers keeps it so.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
from pydantic import BaseModel

from raylign.learners.algorithms.facts import (
    CurriculumKind,
    DynamicSampling,
    RefreshPlan,
    Routing,
    RunFacts,
    RunRows,
    SelectionPlan,
)
from raylign.learners.examples.example import Example, Normalizers
from raylign.learners.examples.from_groups import total_rewards
from raylign.learners.examples.rows import Demonstration, WeighedRow
from raylign.learners.losses.proximal import Proximal
from raylign.learners.meters.metric import PassMetrics
from raylign.rewards.z_scores import all_equal
from raylign.rollout.sample import Group, PreferencePair

if TYPE_CHECKING:
    import torch

    from raylign.learners.examples.micro_batch import MicroBatch


class BaseAlgorithmConfig(BaseModel, ABC, extra="forbid", use_attribute_docstrings=True):
    """The section `algorithm` of a run. Properties have the values of most methods; each says its own where they
    differ."""

    curriculum: ClassVar[CurriculumKind]
    """What rows of the data are to it."""
    name: str
    """Which algorithm this is."""

    @abstractmethod
    def build_objective(self, max_staleness: int = 0, rows: RunRows | None = None) -> Objective:
        """The half on the ranks, for samples at most `max_staleness` versions old. `rows`: of the run, for methods that
        learn something about each row."""

    @abstractmethod
    def build_examples(
        self, seed: int = 0, rows_per_step: int = 1, reward_weights: Mapping[str, float] | None = None
    ) -> ExampleMaker:
        """The half in the driver. `reward_weights`: by reward name as in `Group.rewards`; read only where each reward
        is normalised alone."""

    def problems(self, run: RunFacts) -> Iterator[str]:
        """Why this config cannot train in such a run, each with the key to change."""
        yield from ()

    def idle_settings(self, num_steps: int) -> Iterator[str]:
        """Settings that ask for what never comes in a run of so many steps, each with the key to change."""
        yield from ()

    @property
    def learns_from_rows(self) -> bool:
        """Whether answers of the data set are learned from, besides or instead of sampled ones."""
        return self.curriculum != "prompts"

    @property
    def needs_rollouts(self) -> bool:
        """Whether engines generate what the steps train on."""
        return self.curriculum == "prompts"

    @property
    def needs_rewards(self) -> bool:
        """Whether what engines generate must be scored."""
        return self.needs_rollouts

    @property
    def needs_reference(self) -> bool:
        """Whether log π_ref is used, in the loss or in the reward."""
        return False

    @property
    def optimizer_steps_per_batch(self) -> int:
        """Optimizer steps on one batch of examples."""
        return 1

    @property
    def min_group_size(self) -> int:
        """Fewest completions of one prompt that teach."""
        return 1

    @property
    def epoch_stretch(self) -> float:
        """How much longer an epoch gets by rows that are not learned from as they stand."""
        return 1.0

    @property
    def trusted_kind(self) -> Literal["demonstrations", "pairs"] | None:
        """What trusted rows are to it; None where it reads none."""
        return None

    @property
    def refresh(self) -> RefreshPlan | None:
        """Set where engines answer questions of rows beside the training."""
        return None

    @property
    def selection(self) -> SelectionPlan | None:
        """Set where rows are weighed."""
        return None

    def alarm_below(self, max_staleness: int) -> float:
        """Effective sample size share under which a run warns; 0: never."""
        return 0.0


class ExampleMaker:
    """The driver's half: what groups and rows become. A method makes examples of what its curriculum has, and of
    nothing else."""

    dynamic_sampling: DynamicSampling | None = None
    """Set where groups that `accepts` refuses are to be replaced."""
    routing: Routing | None = None
    """Which rows of the data the policy answers; None: all of them, or none."""

    def accepts(self, group: Group) -> bool:
        """False for a scored group that teaches nothing and is to be replaced."""
        return True

    def has_spread(self, groups: Sequence[Group]) -> list[bool]:
        """Whether each scored group tells its completions apart; where not, it teaches nothing. The one rule for
        advantages, `reward/zero_variance_share` and dynamic sampling; an overlong penalty does not count."""
        totals = [total_rewards(group) for group in groups]
        return [not all_equal(total_G[np.isfinite(total_G)]) for total_G in totals]

    def from_groups(self, groups: Sequence[Group]) -> list[Example]:
        """Of all groups of a step together: some advantages compare groups."""
        raise self._has_none_of("groups")

    def from_demonstrations(self, demonstrations: Sequence[Demonstration]) -> list[Example]:
        """One for each."""
        raise self._has_none_of("demonstrations")

    def from_pairs(self, pairs: Sequence[PreferencePair], is_training: bool = True) -> list[Example]:
        """Two for each, one unit. `is_training` is False for held-out pairs."""
        raise self._has_none_of("pairs")

    def from_trusted(self, rows: Sequence[Demonstration | PreferencePair]) -> list[Example]:
        """The upper level alone."""
        raise self._has_none_of("trusted rows")

    def from_levels(
        self, trusted: Sequence[Demonstration | PreferencePair], weighed: Sequence[WeighedRow]
    ) -> list[Example]:
        """Both levels of a step."""
        raise self._has_none_of("weighed rows")

    def _has_none_of(self, what: str) -> ValueError:
        return ValueError(f"{type(self).__name__} makes no examples of {what}: another curriculum belongs to it")


class Objective(Protocol):
    """The ranks' half. The same calls in the same order give the same results on every rank."""

    needs_reference: bool
    """True when log π_ref is used."""
    num_updates: int
    """Optimizer steps on one batch of examples (mini-batches); old_logps are recomputed before the first when > 1."""
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
    learns_from_rows: bool
    """True where examples without a weight version may be among those of a step."""
    model_kind: Literal["policy", "scorer"]
    """scorer: a sequence-classification model, whose scores stand where log-probs stand otherwise."""

    def complete(self, examples: list[Example]) -> list[Example]:
        """The examples with final advantages, given all of one update, log-probs filled."""

    def after_step(self, examples: Sequence[Example], losses: Sequence[float]) -> dict[str, float]:
        """Learn beside the model (a data selector, say) from the examples of one optimizer step and the `SEQUENCE_LOSS`
        of each, on every rank the same; gives metrics. Called only where `loss` gives it."""

    def state(self) -> dict[str, Any]:
        """What has been learned beside the model; checkpoints keep it."""

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


class PlainObjective:
    """What most objectives leave as it is: nothing completed, nothing learned beside the model."""

    needs_reference = False
    num_updates = 1
    proximal: Proximal = "recompute"
    completes_batch = False
    needs_old_logps = False
    skips_zero_advantages = False
    entropy_has_gradient = False
    learns_from_rows = True
    model_kind: Literal["policy", "scorer"] = "policy"

    def complete(self, examples: list[Example]) -> list[Example]:
        return examples

    def after_step(self, examples: Sequence[Example], losses: Sequence[float]) -> dict[str, float]:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        pass
