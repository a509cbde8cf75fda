"""The commands of a sweep, in order.

Given a `SweepConfig`; gives one `SweepRun` for each command, with its name, folder and what it needs.

    sft once for each model and data set    SFT_<model>_<data>
    then each task, over its whole grid      <task>_<model>_<data>_<label><value>…, and what follows it (evaluations)
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raylign.jobs.config.sweep import FollowUp, SweepConfig, TaskConfig

FIRST = "SFT"
START, RUN = "{start}", "{run}"


@dataclass(frozen=True)
class SweepRun:
    """One command of a sweep."""

    name: str
    words: tuple[str, ...]
    """After `raylign`. `{start}`: the checkpoint of `starts_from`; `{run}`: the folder of the run `follows`."""
    folder: Path
    task: str
    model: str
    data: str
    values: Mapping[str, Any] = field(default_factory=dict)
    """The point of the grid, by label; of a command that follows a run, the run's."""
    starts_from: str | None = None
    follows: str | None = None
    follow_up: str | None = None
    """Name of the follow-up; None: a training run."""

    @property
    def needs(self) -> str | None:
        """The run that must be done before."""
        return self.follows or self.starts_from


def expand(config: SweepConfig) -> Iterator[SweepRun]:
    """Every command, in order: first the sft runs, then each task with what follows it."""
    for model, data in itertools.product(config.models, config.datasets):
        if config.sft is not None:
            sft = _train(config, FIRST, model, data, config.sft, {}, None)
            yield sft
            for follow_up in config.sft.then:
                yield _follow(config, follow_up, sft)
    for model, data in itertools.product(config.models, config.datasets):
        start = run_name(FIRST, model, data, {}) if config.sft is not None else None
        for task_name, task in config.tasks.items():
            for values in combinations(task):
                run = _train(config, task_name, model, data, task, values, start)
                yield run
                for follow_up in task.then:
                    yield _follow(config, follow_up, run)


def check_names(runs: Sequence[SweepRun], folder: Path) -> None:
    """Raise where two runs would share a folder, so that the second would count as done, or one would lie elsewhere."""
    by_folder: dict[Path, SweepRun] = {}
    for run in runs:
        other = by_folder.setdefault(run.folder, run)
        if other is not run:
            same = (
                "they are the same run twice" if other.words == run.words else "give them names or labels that differ"
            )
            raise ValueError(f"two runs of the sweep are called {run.name} and would share {run.folder}: {same}")
        if run.folder.parent != folder:
            raise ValueError(
                f"the run {run.name!r} would lie in {run.folder}: names of tasks, models and data sets are no paths"
            )


def combinations(task: TaskConfig) -> list[dict[str, Any]]:
    """Every point of the grid, the last key changing fastest."""
    return [dict(zip(task.grid, values, strict=True)) for values in itertools.product(*task.grid.values())]


def run_name(task: str, model: str, data: str, labelled: Mapping[str, Any]) -> str:
    """`DDP_Q0.5B_PP10_beta0.10r0.20rho0.30`: two decimals where that is exact, else as many digits as it takes."""
    parameters = "".join(f"{label}{_short(value)}" for label, value in labelled.items())
    return "_".join([task, model, data, *([parameters] if parameters else [])])


def _short(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value).replace("/", "-")  # a path or a hub name is one part of a name
    if float(two_decimals := f"{value:.2f}") == value:
        return two_decimals
    short = next(text for digits in range(17) if float(text := f"{value:.{digits}e}") == value)
    return short if len(short) <= len(repr(value)) else repr(value)


def _train(
    config: SweepConfig, name: str, model: str, data: str, task: TaskConfig, values: dict[str, Any], start: str | None
) -> SweepRun:
    labelled = {task.labels.get(key, key): value for key, value in values.items()}
    full_name = run_name(name, model, data, labelled)
    folder = config.folder / full_name
    keys = {**config.models[model], **config.datasets[data], **task.set, **task.datasets.get(data, {}), **values}
    if start is not None:
        keys["model.path"] = START
    words = ["train", *_recipes(task.config), "--name", full_name, "--folder", str(folder), *_flags(keys)]
    return SweepRun(full_name, tuple(words), folder, name, model, data, labelled, starts_from=start)


def _follow(config: SweepConfig, follow_up: FollowUp, run: SweepRun) -> SweepRun:
    name = f"{run.name}/{follow_up.name}"
    folder = config.folder / f"{run.name}_{follow_up.name}"
    keys = {**follow_up.set, **follow_up.datasets.get(run.data, {})}
    words = [*follow_up.command.split(), *_recipes(follow_up.config), "--folder", str(folder), *_flags(keys)]
    if run.starts_from is None:  # then the run starts from its model as it is
        words = [word.replace(START, str(config.models[run.model].get("model.path", START))) for word in words]
    return SweepRun(
        name,
        tuple(words),
        folder,
        run.task,
        run.model,
        run.data,
        run.values,
        starts_from=run.starts_from,
        follows=run.name,
        follow_up=follow_up.name,
    )


def _recipes(names: list[str]) -> list[str]:
    return [word for name in names for word in ("--config", name)]


def _flags(keys: Mapping[str, Any]) -> list[str]:
    return [
        word
        for key, value in keys.items()
        for word in (f"--{key}", value if isinstance(value, str) else json.dumps(value))
    ]
