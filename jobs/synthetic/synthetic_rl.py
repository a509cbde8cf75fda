"""`raylign synthetic-rl`: from a task's definition to a tuned model, in one command (arXiv 2505.17063).

Given a `SyntheticRLConfig`; gives a folder and the model in `target_model_path`:

    data/          what `raylign data synthesize` makes
    train/         an ordinary run of GRPO on data/selected, from the base model; evaluated on the test set before the
                   first and after the last step
    summary.json   accuracy before and after, rows, calls and cost
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from raylign.actors.cluster import ray_cluster
from raylign.jobs.checks.findings import print_findings
from raylign.jobs.checks.machine import this_machine
from raylign.jobs.data.job_folder import check_job_folder, job_folder
from raylign.jobs.run.checkpoints import STATE, model_folder
from raylign.jobs.run.folder import write_atomically
from raylign.jobs.synthetic.examine_training import examine_training_half
from raylign.jobs.synthetic.given import read_given
from raylign.jobs.synthetic.rl_config import SyntheticRLConfig
from raylign.jobs.synthetic.synthesize import MAY_CHANGE_ON_RESUME, synthesize

MAY_CHANGE = (*MAY_CHANGE_ON_RESUME, "target_model_path", "model", "trackers")
SUMMARY = "summary.json"


def synthetic_rl(config: SyntheticRLConfig) -> dict[str, Any] | None:
    """Data, training, evaluation, model; None for a dry run."""
    from raylign.jobs.train import train

    check_target(config.target_model_path, config.folder, config.resume)
    check_job_folder(config.folder, config, config.resume, MAY_CHANGE)
    if not config.resume:
        findings = examine_training_half(config, read_given(config.synthesis()), this_machine())
        findings.problems = [f"training: {problem}" for problem in findings.problems]
        if config.dry_run:
            print_findings(findings)
        else:
            findings.raise_problems()
    if config.dry_run:
        return synthesize(config.synthesis())
    with job_folder(config.folder, config, config.resume, MAY_CHANGE), ray_cluster(config.cluster):
        made = synthesize(config.synthesis())  # stages that are there are read; another selection is made anew
        assert made is not None
        training = config.training(made["num_test"])
        finished = config.folder / "train" / SUMMARY
        learned = json.loads(finished.read_text()) if training.resume and finished.exists() else {}
        if not learned.get("finished"):
            learned = train(training).summary()
        checkpoint = Path(model_folder(str(config.folder / "train")))
        copy_model(checkpoint, config.target_model_path, config.folder)
    summary = {
        "experiment_name": config.experiment_name,
        "model": config.model,
        "task": config.task_name if config.task is None else config.task.form,
        "accuracy_before": learned["accuracy_before"],
        "accuracy_after": learned["accuracy_after"],
        "num_test": made["num_test"],
        "num_selected": made["num_selected"],
        "num_scored": made["num_scored"],
        "num_learnable": made["num_learnable"],
        "num_steps": learned["num_steps"],
        "train_seconds": learned["seconds"],
        "teacher": made["teacher"]["total"],
        "checkpoint": str(checkpoint),
        "target_model_path": str(config.target_model_path),
        "seed": config.seed,
    }
    write_atomically(config.folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
    _print(summary)
    return summary


def check_target(target: Path, folder: Path, resume: bool) -> None:
    """Raise where something else stands there."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (resume and _origin(target) == str(folder.absolute())):
        raise ValueError(
            f"target_model_path is {target}: something stands there already; choose another place, or remove it"
        )


def copy_model(checkpoint: Path, target: Path, folder: Path) -> None:
    """Model and tokenizer of a checkpoint, without what only a resumed run needs; whole or not there."""
    temporary = target.with_name(f".tmp-{target.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(checkpoint, temporary, ignore=shutil.ignore_patterns(STATE, "complete.json"))
    write_atomically(temporary / "made_by.json", json.dumps({"experiment": str(folder.absolute())}) + "\n")
    if target.exists():
        shutil.rmtree(target)
    temporary.replace(target)


def _origin(target: Path) -> str | None:
    try:
        return str(json.loads((target / "made_by.json").read_text())["experiment"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _print(summary: dict[str, Any]) -> None:
    if summary["accuracy_before"] is not None:
        print(
            f"{summary['model']}, {summary['task']}: accuracy on {summary['num_test']} test rows "
            f"{summary['accuracy_before']:.1%} → {summary['accuracy_after']:.1%}"
        )
    else:
        print("no test rows were given, so accuracy was not measured (dataset_path with a test split)")
    print(f"{summary['num_selected']} rows trained on; the model is in {summary['target_model_path']}", flush=True)
