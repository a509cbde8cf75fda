"""The file that a sweep expands.

Given nothing; gives `SweepConfig`, checked before anything starts. Keys of runs are written with dots, as on the
command line: `algorithm.beta`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, Field, model_validator

from raylign.jobs.config.shared_checks import filled_folder


class FollowUp(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """A command after each run of a task."""

    name: str
    """Its name, added to the run's."""
    command: str = "evaluate"
    """What to run: evaluate, compare, data best-of-n."""
    config: list[str] = []
    """Recipes, by file or name."""
    set: dict[str, Any] = {}
    """Keys; `{run}` in a value is the folder of the run that it follows."""


class TaskConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """Runs that differ in the points of a grid."""

    config: list[str] = []
    """Recipes, by file or name; later ones win."""
    set: dict[str, Any] = {}
    """Keys of all its runs."""
    grid: dict[str, list[Any]] = {}
    """Keys with the values to try; every combination is a run."""
    labels: dict[str, str] = {}
    """Short names of grid keys, for the names of runs; empty: the keys themselves."""
    then: list[FollowUp] = []
    """What follows each run."""

    @model_validator(mode="after")
    def _grid_has_values(self) -> Self:
        for key, values in self.grid.items():
            if not values:
                raise ValueError(f"grid.{key} has no values")
        if unknown := self.labels.keys() - self.grid.keys():
            raise ValueError(f"labels names {', '.join(sorted(unknown))}, which grid does not have")
        return self


class SweepConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """Models × data sets × tasks × their grids."""

    name: str = Field("sweep", min_length=1)
    """Name of the sweep, for its folder."""
    folder: Path = Path("runs/{name}")
    """Folder of all its runs; `{name}` is filled in."""
    models: dict[str, dict[str, Any]] = {"model": {}}
    """By short name: keys of the model (`model.path`, `learner.lora.rank`, …)."""
    datasets: dict[str, dict[str, Any]] = {"data": {}}
    """By short name: keys of the data (`data.source`, …)."""
    sft: TaskConfig | None = None
    """Trained once for each model and data set; tasks start from its checkpoint. Empty: they start from the model."""
    tasks: dict[str, TaskConfig] = {}
    """By name, as it stands in the names of runs."""
    dry_run: bool = False
    """Print the commands, in order, and start none."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.folder = filled_folder(self.folder, self.name, 0)
        if not self.tasks and self.sft is None:
            raise ValueError("tasks is empty: a sweep needs at least one")
        if self.sft is not None and self.sft.grid:
            raise ValueError("sft.grid is set: sft is trained once for each model and data set; make it a task instead")
        return self
