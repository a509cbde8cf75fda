"""`raylign sweep`: a grid of runs from one file, one after the other, and a table of what they found.

Given a `SweepConfig`; gives a folder with one run folder for each combination and `sweep.md`. A sweep that is started
again leaves finished runs alone, resumes the one that was cut off, and goes on.

    sft once for each model and data set    SFT_<model>_<data>
    then each task, over its whole grid      <task>_<model>_<data>_<label><value>…, and what follows it (evaluations)
"""

from __future__ import annotations

import itertools
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raylign.jobs.config.sweep import FollowUp, SweepConfig, TaskConfig
from raylign.jobs.run.output_folder import config_differences

FIRST = "SFT"


@dataclass(frozen=True)
class SweepRun:
    """One command of a sweep."""

    name: str
    words: tuple[str, ...]
    """After `raylign`. `{start}`: the checkpoint of the run `starts_from`; `{run}`: the folder of the run `follows`."""
    folder: Path
    starts_from: str | None = None
    follows: str | None = None


def sweep(config: SweepConfig) -> int:
    """Run what is not done yet; 1 when any run failed."""
    runs = list(expand(config))
    check_names(runs, config.folder)
    if config.dry_run:
        for run in runs:
            print(f"{run.name}: raylign {shlex.join(run.words)}")
        print(f"{len(runs)} commands")
        return 0
    folders = {run.name: run.folder for run in runs}
    failed: list[str] = []
    for number, run in enumerate(runs, start=1):
        print(f"[{number}/{len(runs)}] {run.name}: {_execute(run, folders, failed)}", flush=True)
    page = config.folder / "sweep.md"
    page.write_text(table(runs))
    print(f"wrote {page}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return int(bool(failed))


def expand(config: SweepConfig) -> Iterator[SweepRun]:
    """Every command, in order: first the sft runs, then each task with what follows it."""
    for model, data in itertools.product(config.models, config.datasets):
        if config.sft is not None:
            yield _train(config, FIRST, model, data, config.sft, {}, None)
    for model, data in itertools.product(config.models, config.datasets):
        start = run_name(FIRST, model, data, {}) if config.sft is not None else None
        for task_name, task in config.tasks.items():
            for values in combinations(task):
                run = _train(config, task_name, model, data, task, values, start)
                yield run
                for follow_up in task.then:
                    yield _follow(config, follow_up, run, data)


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
    full_name = run_name(name, model, data, {task.labels.get(key, key): value for key, value in values.items()})
    folder = config.folder / full_name
    keys = {**config.models[model], **config.datasets[data], **task.set, **values}
    if start is not None:
        keys["model.path"] = "{start}"
    words = ["train", *_recipes(task.config), "--name", full_name, "--folder", str(folder), *_flags(keys)]
    return SweepRun(full_name, tuple(words), folder, starts_from=start)


def _follow(config: SweepConfig, follow_up: FollowUp, run: SweepRun, data: str) -> SweepRun:
    name = f"{run.name}/{follow_up.name}"
    folder = config.folder / f"{run.name}_{follow_up.name}"
    words = [*follow_up.command.split(), *_recipes(follow_up.config), "--folder", str(folder), *_flags(follow_up.set)]
    return SweepRun(name, tuple(words), folder, follows=run.name)


def _recipes(names: list[str]) -> list[str]:
    return [word for name in names for word in ("--config", name)]


def _flags(keys: Mapping[str, Any]) -> list[str]:
    return [
        word
        for key, value in keys.items()
        for word in (f"--{key}", value if isinstance(value, str) else json.dumps(value))
    ]


def _execute(run: SweepRun, folders: Mapping[str, Path], failed: list[str]) -> str:
    """Run the command; says how it went."""
    needed = run.starts_from or run.follows
    if needed in failed:
        failed.append(run.name)
        return f"left out, since {needed} failed"
    words = list(run.words)
    if run.starts_from is not None:
        words = [word.replace("{start}", _checkpoint(folders[run.starts_from])) for word in words]
    if run.follows is not None:
        words = [word.replace("{run}", str(folders[run.follows])) for word in words]
    if _is_finished(run.folder):
        if not (differences := _differences(run.folder, words)):
            return "done before"
        failed.append(run.name)
        return (
            f"failed: {run.folder} is finished with another config ({'; '.join(differences[:3])}); name the sweep anew"
        )
    if (run.folder / "config.yaml").is_file():
        words.append("--resume")
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    log = run.folder.parent / f"{run.folder.name}.log"
    with log.open("a") as output:
        done = subprocess.run([sys.executable, "-m", "raylign.jobs", *words], stdout=output, stderr=subprocess.STDOUT)
    if done.returncode == 0:
        return "done"
    failed.append(run.name)
    return f"failed with {done.returncode}; {log} ends in: {log.read_text().strip().splitlines()[-1][:200]}"


def _differences(folder: Path, words: Sequence[str]) -> list[str]:
    """How the config of a finished run differs from what these words ask for."""
    if not (folder / "config.yaml").is_file():
        return []
    asked = subprocess.run(
        [sys.executable, "-m", "raylign.jobs", *words, "--print-config"], capture_output=True, text=True
    )
    if asked.returncode != 0:
        return [asked.stderr.strip().splitlines()[-1]] if asked.stderr.strip() else ["its config does not resolve"]
    return config_differences((folder / "config.yaml").read_text(encoding="utf-8"), asked.stdout)


def _checkpoint(folder: Path) -> str:
    return str(json.loads((folder / "summary.json").read_text())["checkpoint"])


def _is_finished(folder: Path) -> bool:
    for name in ("summary.json", "evaluation.json", "comparison.json"):
        if (folder / name).is_file():
            return bool(json.loads((folder / name).read_text()).get("finished", True))
    return False


def table(runs: list[SweepRun]) -> str:
    """Markdown: a row for each finished training run, a column for each number of its last evaluation."""
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        if run.words[0] == "train" and (run.folder / "summary.json").is_file():
            summary = json.loads((run.folder / "summary.json").read_text())
            evaluation = {key.partition("/")[2]: value for key, value in (summary.get("evaluation") or {}).items()}
            kept = {key: value for key, value in evaluation.items() if key and not key.endswith(("_low", "_high"))}
            found[run.name] = {"steps": summary["num_steps"], "s": summary["seconds"], **kept}
    columns = list(dict.fromkeys(column for row in found.values() for column in row))
    lines = ["| run | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in found.items():
        cells = [f"{row[column]:.4g}" if isinstance(row.get(column), (int, float)) else "" for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
