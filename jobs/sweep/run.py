"""`raylign sweep` and its parts: `prep`, `execute`, `status`.

Given a `SweepConfig`; gives a folder with sweep.json, one run folder for each combination, `sweep.md` and `sweep.csv`.
A sweep that is started again leaves finished runs alone, resumes what was cut off, and goes on. One process at a time
writes the folder.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from raylign.jobs.checks.findings import PlanError
from raylign.jobs.checks.machine import this_machine
from raylign.jobs.config.sweep import PreparedSweepConfig, SweepConfig
from raylign.jobs.run.output_folder import check_can_write, hold
from raylign.jobs.sweep.checks import Checked, check_all
from raylign.jobs.sweep.commands import SweepRun, check_names, expand
from raylign.jobs.sweep.execute import Execution
from raylign.jobs.sweep.manifest import MANIFEST, Prepared, read_manifest, write_manifest
from raylign.jobs.sweep.room import Room, cluster_address
from raylign.jobs.sweep.status import status_lines
from raylign.jobs.sweep.table import write_tables


def sweep(config: SweepConfig) -> int:
    """Prepare, then run what is not done yet; 1 when any run failed."""
    runs = _expanded(config)
    if config.dry_run:
        return _print_commands(runs)
    with hold(_made(config)):
        prepared = _prepare(config, runs)
        return _execute(config, prepared)


def sweep_prep(config: SweepConfig) -> int:
    """Check every command and write sweep.json."""
    runs = _expanded(config)
    if config.dry_run:
        return _print_commands(runs)
    with hold(_made(config)):
        _prepare(config, runs)
    print(f"`raylign sweep execute --folder {config.folder}` runs them")
    return 0


def sweep_execute(config: PreparedSweepConfig) -> int:
    """Run what sweep.json lists and is not done yet; 1 when any run failed."""
    prepared = _read(config)
    if config.dry_run:
        return _print_commands([one.run for one in prepared])
    check_can_write(config.folder)
    with hold(config.folder):
        return _execute(config, prepared)


def sweep_status(config: PreparedSweepConfig) -> int:
    """Print what became of each command."""
    for line in status_lines(config.folder, _read(config)):
        print(line)
    return 0


def _expanded(config: SweepConfig) -> list[SweepRun]:
    runs = list(expand(config))
    check_names(runs, config.folder)
    return runs


def _made(config: SweepConfig) -> Path:
    check_can_write(config.folder)
    config.folder.mkdir(parents=True, exist_ok=True)
    return config.folder


def _prepare(config: SweepConfig, runs: Sequence[SweepRun]) -> list[Prepared]:
    """Raises with the problems of all commands, after which nothing has changed."""
    checked = check_all(runs, this_machine())
    for warning in _together(checked, "warnings"):
        print(f"warning: {warning}", file=sys.stderr)
    if problems := _together(checked, "problems"):
        raise PlanError("\n".join(problems))
    prepared = [Prepared(one.run, one.resources) for one in checked]
    path = write_manifest(config.folder, config.name, prepared)
    num_done = sum(one.is_done for one in checked)
    print(f"{len(runs)} commands checked, {num_done} of them done: {path}")
    return prepared


def _together(checked: Sequence[Checked], kind: str) -> list[str]:
    """What the checks say, each once with the commands that it is said of."""
    names: dict[str, list[str]] = {}
    for one in checked:
        for text in getattr(one.findings, kind):
            # a command's own folder and name are no reason to say the same twice
            names.setdefault(text.replace(str(one.run.folder), "{folder}"), []).append(one.run.name)
    folder_of = {one.run.name: str(one.run.folder) for one in checked}
    return [
        f"{of[0]}{f' and {len(of) - 1} more' if len(of) > 1 else ''}: {text.replace('{folder}', folder_of[of[0]])}"
        for text, of in names.items()
    ]


def _read(config: PreparedSweepConfig) -> list[Prepared]:
    prepared = read_manifest(config.folder)
    if config.tasks or config.sft:
        asked = {run.name: run.words for run in _expanded(config)}
        if asked != {one.run.name: one.run.words for one in prepared}:
            raise ValueError(
                f"{config.folder / MANIFEST} lists other commands than this file: run `raylign sweep prep` again"
            )
    return prepared


def _execute(config: SweepConfig, prepared: Sequence[Prepared]) -> int:
    address = cluster_address(one.resources.address for one in prepared if one.resources.has_cluster)
    room = Room.of_machine(this_machine()) if address is None else Room.of_cluster(address)
    runs = [one.run for one in prepared]
    try:
        states = Execution(config.folder, prepared, room, config.num_parallel).run()
    finally:
        page = write_tables(config.folder, runs)
    failed = [name for name, state in states.items() if not state.startswith("done")]
    print(f"wrote {page}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return int(bool(failed))


def _print_commands(runs: Sequence[SweepRun]) -> int:
    for run in runs:
        print(f"{run.name}: raylign {shlex.join(run.words)}")
    print(f"{len(runs)} commands")
    return 0
