"""What a curriculum is: where the examples of a step come from. One for each run, in the driver.

Given the run's rows and the algorithm's `ExampleMaker`; gives the prompts that engines answer, the examples of a step,
evaluations on rows of its own, and what of it belongs in a checkpoint. A run asks the same of every curriculum.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from raylign.jobs.config.train import TrainConfig
from raylign.learners.algorithms.base import ExampleMaker
from raylign.learners.algorithms.facts import RunRows
from raylign.learners.examples.example import Example
from raylign.rollout.sample import Group, Prompt
from raylign.rollout.staleness import StalenessBound

if TYPE_CHECKING:
    from raylign.actors.learner.group import LearnerGroup
    from raylign.actors.rollout_pool import RolloutPool
    from raylign.actors.weights.publisher import WeightPublisher


class Services(Protocol):
    """The parts of a run that a curriculum may call, once they are started."""

    @property
    def learner(self) -> LearnerGroup: ...

    @property
    def rollouts(self) -> RolloutPool:
        """Only where engines run."""

    @property
    def publisher(self) -> WeightPublisher:
        """Only where engines run."""


class Rows(Protocol):
    """Rows in the order of a run."""

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def prompt(self, ordinal: int) -> Prompt: ...


class Curriculum:
    """What most curricula leave as it is; each gives `examples`."""

    rows: Rows

    def __init__(self, config: TrainConfig, rows: Rows, examples: ExampleMaker) -> None:
        self.config, self.rows, self.make = config, rows, examples
        self._rows_per_step = config.rollout.prompts_per_step

    def examples(self, step: int, groups: Sequence[Group]) -> list[Example]:
        """What `step` trains on, given the groups that engines generated for it (none where they generate nothing)."""
        raise TypeError(f"{type(self).__name__} gives no examples")

    # ---- what engines generate ---------------------------------------------------------------------------

    def prompt(self, ordinal: int) -> Prompt:
        """The prompt of a group by its ordinal."""
        return self.rows.prompt(ordinal)

    def bound(self, runs_ahead: int) -> StalenessBound:
        """How many groups each step takes, and how far engines may run ahead."""
        return StalenessBound(runs_ahead, self._rows_per_step)

    # ---- beside the steps --------------------------------------------------------------------------------

    @property
    def evaluates(self) -> bool:
        """Whether it holds rows out."""
        return False

    async def evaluate(self, services: Services) -> dict[str, float]:
        """`evaluation/…` on the rows that it holds out."""
        return {}

    async def before_step(self, step: int, services: Services) -> dict[str, float]:
        """Asked before the examples of `step`, counted from 0; gives metrics of what it did."""
        return {}

    async def release_engines(self) -> None:
        """Returns when it uses no engine any more, until the next step."""

    async def stop(self) -> None:
        """Give up what is under way."""

    # ---- what it knows and leaves behind -----------------------------------------------------------------

    def run_rows(self, num_steps: int) -> RunRows:
        """What every learner rank is told of the rows."""
        return RunRows(len(self.rows), self.rows.fingerprint, self._rows_per_step, num_steps)

    def save(self, checkpoint: Path) -> None:
        """State of its own, into a checkpoint folder."""

    def load(self, checkpoint: Path) -> None:
        """What `save` wrote."""

    async def write_results(self, run_folder: Path, step: int, services: Services) -> None:
        """Files for the user, of the state after `step`."""
