"""`raylign data synthesize`: training rows from a task's definition (Synthetic Data RL, arXiv 2505.17063).

Given a `SynthesizeConfig`; gives a folder:

    keywords.json … score.json     what each stage made, whole; a stage that is there is not run again
    *.replies.jsonl, *.draws.jsonl replies of the teacher and answers of the base model, as they finish
    selected/ synthetic.parquet sft/ dropped.jsonl summary.json report.html

    keywords → passages → pattern → generate → verify → solve → adapt → verify rewrites → score → select

Who waits: this process for the teacher (each call has a deadline) and, in solve and score, for the engines.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from raylign.jobs.checks.findings import Findings, print_findings
from raylign.jobs.data.dropped import Dropped
from raylign.jobs.data.job_folder import check_job_folder, job_folder
from raylign.jobs.run.folder import write_atomically
from raylign.jobs.synthetic.base_answers import BaseModelAnswers, EngineAnswers
from raylign.jobs.synthetic.config import SynthesizeConfig
from raylign.jobs.synthetic.estimate import estimate, print_estimate
from raylign.jobs.synthetic.examine import examine_synthesis
from raylign.jobs.synthetic.generate import Material
from raylign.jobs.synthetic.given import Given, read_given
from raylign.jobs.synthetic.outputs import write_data, write_dropped
from raylign.jobs.synthetic.page import job_page
from raylign.jobs.synthetic.pipeline import Pipeline
from raylign.jobs.synthetic.prompts import TaskTexts
from raylign.jobs.synthetic.rows import Row
from raylign.jobs.synthetic.score import scored_rows
from raylign.jobs.synthetic.selection import select
from raylign.jobs.synthetic.summary import summary_of, teacher_facts
from raylign.jobs.synthetic.teacher import Teacher
from raylign.rewards.tasks.opening import open_task
from raylign.rewards.tasks.task import Task

MAY_CHANGE_ON_RESUME = ("dry_run", "num_engines", "answer_deadline_s", "selection", "teacher")
"""None of them changes a row that is there: replies of another teacher are refused by their key."""


def synthesize(config: SynthesizeConfig) -> dict[str, Any] | None:
    """Check, make rows, select, report; None for a dry run."""
    given = read_given(config)
    findings = examine_synthesis(config, given)
    findings.attempt("folder", lambda: check_job_folder(config.folder, config, config.resume, MAY_CHANGE_ON_RESUME))
    if config.dry_run:
        _dry_run(config, given, findings)
        return None
    findings.raise_problems()
    for warning in findings.warnings:
        print(f"warning: {warning}", flush=True)
    with (
        job_folder(config.folder, config, config.resume, MAY_CHANGE_ON_RESUME),
        closing(open_task(config.task)) as task,
    ):
        return asyncio.run(make_data(config, given, task, EngineAnswers(config, task)))


async def make_data(config: SynthesizeConfig, given: Given, task: Task, base: BaseModelAnswers) -> dict[str, Any]:
    """All stages and what they leave; gives the summary."""
    async with Teacher(config.teacher, config.folder) as teacher:
        pipeline = Pipeline(config, given, task, teacher, base)
        try:
            stages = await pipeline.run()
        finally:
            write_atomically(config.folder / "teacher.json", json.dumps(teacher_facts(teacher), indent=2) + "\n")
        rows = stages["score"].rows
        dropped = [each for result in stages.values() for each in result.dropped]
        write_dropped(config.folder, dropped)
        selection = select(scored_rows(rows), config.rows.num_kept, config.selection, config.seed)
        test = readable_test(task, given)
        write_data(config.folder, rows, selection, test, task)
        summary = summary_of(config, stages, selection, teacher, pipeline.resumed) | {
            "num_test": len(test),
            "test_rows_without_readable_label": len(given.test) - len(test),
            "warnings": list(given.warnings),
        }
        _write_summary(config, summary, rows, dropped)
    _print(summary, config.folder)
    return summary


def readable_test(task: Task, given: Given) -> list[Any]:
    """Test rows whose label the task reads; another could never be answered right."""
    labels = task.read_labels([row.output for row in given.test]) if given.test else []
    return [row for row, label in zip(given.test, labels, strict=True) if label is not None]


def _dry_run(config: SynthesizeConfig, given: Given, findings: Findings) -> None:
    print_findings(findings)
    with closing(open_task(config.task)) as task:
        texts = TaskTexts(config.instruction, task.input_instruction, task.output_instruction)
    print_estimate(config, estimate(config, Material(texts, given.demos), bool(config.passage_paths)))


def _write_summary(
    config: SynthesizeConfig, summary: dict[str, Any], rows: Sequence[Row], dropped: Sequence[Dropped]
) -> None:
    write_atomically(config.folder / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    write_atomically(config.folder / "report.html", job_page(config.name, summary, rows, dropped))


def _print(summary: dict[str, Any], folder: Path) -> None:
    for name, stage in summary["stages"].items():
        print(f"{name:16} {stage['rows']:6} rows, {stage['dropped']} left out")
    if summary["shortfall"]:
        print(summary["shortfall"])
    usage = summary["teacher"]["total"]
    print(
        f"{summary['num_selected']} rows selected of {summary['num_scored']} "
        f"({folder / 'selected'}); {usage['num_calls']} calls of the teacher, cost {usage['cost']:.4g}; "
        f"open {folder / 'report.html'}"
    )
