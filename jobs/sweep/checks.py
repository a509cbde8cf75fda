"""Every command of a sweep checked before any of them starts, by the checks of its own start.

Given the commands and the machine; gives findings for each, and what it takes of the machine. A checkpoint that is not
there yet is stood for by the model that its run starts from: it has the same shape and tokenizer.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from raylign.jobs.checks.data import remember_rows
from raylign.jobs.checks.findings import Findings
from raylign.jobs.checks.machine import Machine
from raylign.jobs.cli import COMMANDS, command_name
from raylign.jobs.config.loading import ConfigError, config_yaml, parse_words, read_recipe, resolve
from raylign.jobs.config.train import TrainConfig, generates_anything
from raylign.jobs.report.results import is_finished, read_result
from raylign.jobs.run.checkpoints import checkpoint_of
from raylign.jobs.run.output_folder import config_differences
from raylign.jobs.run.roles import shares_gpu
from raylign.jobs.sweep.commands import RUN, START, SweepRun
from raylign.jobs.sweep.manifest import Resources
from raylign.jobs.sweep.room import cluster_address

ALL_ROLES = "all roles and Ray's objects"
"""The row of a plan's memory with their sum."""


@dataclass(frozen=True)
class Checked:
    """One command, looked at."""

    run: SweepRun
    findings: Findings
    resources: Resources
    is_done: bool = False


def check_all(runs: Sequence[SweepRun], machine: Machine) -> list[Checked]:
    """In their order. Rows that several commands read are read and rendered once."""
    checked: list[Checked] = []
    model_of: dict[str, str] = {}
    folder_of = {run.name: run.folder for run in runs}
    with remember_rows():
        for run in runs:
            one, model = _check(run, model_of, folder_of, machine)
            checked.append(one)
            if model is not None:
                model_of[run.name] = model
    return checked


def filled_words(run: SweepRun, folder_of: dict[str, Path]) -> list[str]:
    """The words of a command whose needed run is done."""
    words = list(run.words)
    if run.starts_from is not None:
        checkpoint = _checkpoint(folder_of[run.starts_from])
        words = [word.replace(START, checkpoint) for word in words]
    if run.follows is not None:
        words = [word.replace(RUN, str(folder_of[run.follows])) for word in words]
    return words


def differences_of_finished(folder: Path, words: Sequence[str]) -> list[str]:
    """How the config of a finished folder differs from what these words ask for; nothing where it keeps none."""
    before = folder / "config.yaml"
    if not before.is_file():
        return []
    try:
        asked = config_of(words)
    except ConfigError as error:
        return [str(error).splitlines()[0]]
    text = before.read_text("utf-8")
    with contextlib.suppress(ConfigError):  # keys that came after it was written have their defaults
        text = config_yaml(resolve(type(asked), [read_recipe(before)]))
    return config_differences(text, config_yaml(asked))


def can_resume(words: Sequence[str]) -> bool:
    """Whether the command goes on with a folder that it left unfinished."""
    name, _ = command_name(list(words))
    return name in COMMANDS and "resume" in _import(COMMANDS[name].config_class).model_fields


def config_of(words: Sequence[str]) -> BaseModel:
    """The config that a command's words give; ConfigError where there is none."""
    name, rest = command_name(list(words))
    if name not in COMMANDS:
        raise ConfigError(f"{name}: unknown command. Commands: {', '.join(COMMANDS)}")
    config_class = _import(COMMANDS[name].config_class)
    return resolve(config_class, parse_words(config_class, rest, f"raylign {name}").layers)


def _check(
    run: SweepRun, model_of: dict[str, str], folder_of: dict[str, Path], machine: Machine
) -> tuple[Checked, str | None]:
    """With the model that stands for the run's own until it is trained."""
    findings = Findings()
    stand_in = model_of.get(run.needs or "")
    words = [_stood_for(word, stand_in or "") for word in run.words]
    reads_a_file_of_a_run = any(f"{RUN}/" in word for word in run.words)
    try:
        config = config_of(words)
    except ConfigError as error:
        findings.problems += str(error).split("\n")
        return Checked(run, findings, Resources()), None
    model = _trained_model(run, config)
    if is_finished(run.folder) and (stand_in is not None or run.needs is None):
        if differences := _differences(run, folder_of):
            shown = "; ".join(differences[:3])
            findings.problems.append(f"{run.folder} is finished with another config ({shown}); name the sweep anew")
        return Checked(run, findings, resources_of(config, findings, machine), is_done=not differences), model
    if (run.folder / "config.yaml").is_file() and "resume" in type(config).model_fields:
        config = config.model_copy(update={"resume": True})
    examine = COMMANDS[command_name(list(words))[0]].examine
    if run.needs is not None and stand_in is None:
        findings.warnings.append(f"only its config is checked: {run.needs} has a problem")
    elif reads_a_file_of_a_run:
        findings.warnings.append(f"only its config is checked: it reads files that {run.follows} has yet to write")
    elif examine is not None:
        found: Findings = _import(examine)(config, machine)
        findings = found
    return Checked(run, findings, resources_of(config, findings, machine)), model


def _differences(run: SweepRun, folder_of: dict[str, Path]) -> list[str]:
    """Of a finished command, by the words that it was given; none while the run that it needs is not there."""
    try:
        words = filled_words(run, folder_of)
    except ValueError:
        return []
    return differences_of_finished(run.folder, words)


def _trained_model(run: SweepRun, config: BaseModel) -> str | None:
    if not isinstance(config, TrainConfig):
        return None
    return _checkpoint(run.folder) if is_finished(run.folder) else config.model.path


def resources_of(config: BaseModel, findings: Findings, machine: Machine) -> Resources:
    """Engines and learner ranks: a GPU each where there are some, else a core each."""
    values: Any = config
    cluster = getattr(config, "cluster", None)
    if isinstance(config, TrainConfig):
        ranks = config.learner.num_ranks
        engines = config.rollout.num_engines if generates_anything(config) else 0
        gpus_each = config.rollout.engine.tensor_parallel_size
    else:
        ranks, engine = 0, getattr(config, "engine", None)
        engines = values.num_engines if engine is not None and _draws(config) else 0
        gpus_each = engine.tensor_parallel_size if engine is not None else 1
    gpus = ranks + engines * gpus_each
    if shares_gpu(len(machine.gpus), ranks, engines, gpus_each):
        gpus = 1
    memory = sum(num_bytes for role, _, num_bytes in findings.memory if role == ALL_ROLES)
    return Resources(
        cores=(cluster.num_cpus if cluster is not None else None) or max(1, ranks + engines),
        gpus=gpus if machine.gpus or (cluster is not None and cluster_address([cluster.address])) else 0,
        memory_bytes=memory,
        has_cluster=cluster is not None,
        address=cluster.address if cluster is not None else "local",
    )


def _draws(config: BaseModel) -> bool:
    """Whether any model answers: a comparison of two files starts no engine."""
    sides = getattr(config, "sides", None)
    return sides is None or any(side.model is not None for side in sides.values())


def _stood_for(word: str, model: str) -> str:
    return word.replace(START, model).replace(RUN, model)


def _checkpoint(folder: Path) -> str:
    found = read_result(folder) or {}
    if "checkpoint" not in found:
        raise ValueError(f"{folder / 'summary.json'} names no checkpoint: the run is not done")
    return checkpoint_of(folder, found)


def _import(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
