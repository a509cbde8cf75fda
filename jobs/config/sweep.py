"""The file that a sweep expands.

Given nothing; gives `SweepConfig`, checked before anything starts. Keys of runs are written with dots, as on the
command line: `algorithm.beta`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, Field, model_validator

from raylign.jobs.config.original_tasks import read_original_tasks
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
    """Keys; in a value, `{run}` is the folder of the run that it follows, `{start}` the model that the run started
    from."""
    datasets: dict[str, dict[str, Any]] = {}
    """Keys by short name of the data set, above `set`."""


class TaskConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """Runs that differ in the points of a grid."""

    config: list[str] = []
    """Recipes, by file or name; later ones win."""
    set: dict[str, Any] = {}
    """Keys of all its runs."""
    datasets: dict[str, dict[str, Any]] = {}
    """Keys of its runs by short name of the data set, above `set`."""
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
    tasks_yaml: Path | None = None
    """configs/tasks.yaml of SAIL's published program, in place of `sft` and `tasks`; `models` and `datasets` may say
    where the ones that it names lie here."""
    num_parallel: int | None = Field(None, ge=1)
    """Runs at a time; empty: as many as the machine or cluster has room for."""
    dry_run: bool = False
    """Print the commands, in order, and start none."""

    @model_validator(mode="before")
    @classmethod
    def _read_tasks_yaml(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or values.get("tasks_yaml") is None:
            return values
        if values.get("tasks") or values.get("sft"):
            raise ValueError("tasks_yaml is set, and so are `tasks` or `sft`: one of them says what is run")
        read = read_original_tasks(Path(values["tasks_yaml"]), values.get("models") or {}, values.get("datasets") or {})
        name = values.get("name")
        if name and name != cls.model_fields["name"].default:
            read["name"] = name
        return {**values, **read, "tasks_yaml": None}

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.folder = filled_folder(self.folder, self.name, 0)
        if not self.tasks and self.sft is None and self.must_have_tasks():
            raise ValueError("tasks is empty: a sweep needs at least one (--config FILE, or --tasks_yaml FILE)")
        if self.sft is not None and self.sft.grid:
            raise ValueError("sft.grid is set: sft is trained once for each model and data set; make it a task instead")
        for name, task in {"sft": self.sft, **self.tasks}.items():
            named: set[str] = set() if task is None else set(task.datasets)
            for follow_up in () if task is None else task.then:
                named |= set(follow_up.datasets)
            if unknown := named - self.datasets.keys():
                raise ValueError(f"{name}: datasets names {', '.join(sorted(unknown))}, which `datasets` has not")
        return self

    @classmethod
    def must_have_tasks(cls) -> bool:
        """Whether the tasks must be given here."""
        return True


class PreparedSweepConfig(SweepConfig):
    """A sweep whose folder holds the sweep.json of `raylign sweep prep`: give its file again, or its folder alone."""

    @classmethod
    def must_have_tasks(cls) -> bool:
        """Its sweep.json has them."""
        return False
