"""Checks of a synthesis before anything starts: engines, model, context, task, test set, library, the teacher's key.

Given a config and what the user gives; gives the findings of a job that answers prompts, and those of its own.
"""

from __future__ import annotations

from contextlib import closing
from functools import partial

from raylign.jobs.checks.findings import Findings
from raylign.jobs.checks.machine import Machine, this_machine
from raylign.jobs.checks.plan import examine_answering
from raylign.jobs.run.output_folder import check_can_write
from raylign.jobs.synthetic.config import SynthesizeConfig
from raylign.jobs.synthetic.given import Given
from raylign.jobs.synthetic.library import check_has_text, library_files
from raylign.rewards.chat_client import ChatClient
from raylign.rewards.tasks.opening import open_task


def examine_synthesis(config: SynthesizeConfig, given: Given, machine: Machine | None = None) -> Findings:
    """All that can be known without a call and without an engine."""
    findings = Findings()
    findings.fact("synthesis", f"{config.name}: {config.rows.num_rows} rows, {config.rows.num_kept} kept")
    findings.fact("teacher", f"{config.teacher.model}, at {', '.join(each.url for each in config.teacher.endpoints)}")
    findings.fact("demonstrations", f"{len(given.demos)}, and {len(given.test)} test rows")
    findings.warnings += given.warnings
    findings.attempt("folder", lambda: check_can_write(config.folder))
    examine_answering(
        config.model, config.engine, config.num_engines, config.cluster, machine or this_machine(), findings
    )
    findings.attempt("teacher", lambda: ChatClient(config.teacher, "endpoints"))
    findings.attempt("task", lambda: _check_task(config, given, findings))
    for path in config.passage_paths:
        if not path.exists():
            findings.problems.append(f"passage_paths holds {path}: there is no such file or folder")
        else:
            findings.attempt("passage_paths", partial(library_files, [path]))
    if config.passage_paths and not any(problem.startswith("passage_paths") for problem in findings.problems):
        findings.attempt("passage_paths", partial(check_has_text, config.passage_paths))
    return findings


def _check_task(config: SynthesizeConfig, given: Given, findings: Findings) -> None:
    """It opens, and reads the labels of the test rows."""
    with closing(open_task(config.task)) as task:
        findings.fact("task", f"{task.name}; output: {task.output_instruction[:200]}")
        labels = task.read_labels([row.output for row in given.test]) if given.test else []
        missing = [row.output for row, label in zip(given.test, labels, strict=True) if label is None]
        if missing and len(missing) == len(labels):
            raise ValueError(
                f"{task.name} reads no label in any of {len(labels)} test rows, such as {missing[0][-80:]!r}: another "
                "task, or another dataset_path"
            )
        if missing:
            findings.warnings.append(
                f"dataset_path: {len(missing)} of {len(labels)} test rows have no label that {task.name} reads, such "
                f"as {missing[0][-80:]!r}; they are left out"
            )
        labels = task.read_labels([demo.output for demo in given.demos]) if given.demos else []
        if unreadable := sum(label is None for label in labels):
            findings.warnings.append(
                f"{unreadable} of {len(labels)} demonstrations have no label that {task.name} reads"
            )
