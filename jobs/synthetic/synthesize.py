"""`raylign data synthesize`: training rows from a task's definition (Synthetic Data RL, arXiv 2505.17063, steps 1 to 4).

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
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raylign.jobs.checks.findings import Findings, print_findings
from raylign.jobs.data.job_folder import check_job_folder, job_folder
from raylign.jobs.data.row_journal import key_of
from raylign.jobs.run.folder import write_atomically
from raylign.jobs.synthetic.adapt import adapt, solve
from raylign.jobs.synthetic.base_answers import BaseModelAnswers, EngineAnswers
from raylign.jobs.synthetic.config import SynthesizeConfig
from raylign.jobs.synthetic.estimate import estimate, print_estimate
from raylign.jobs.synthetic.examine import examine_synthesis
from raylign.jobs.synthetic.generate import Material, describe, generate
from raylign.jobs.synthetic.given import Given, read_given
from raylign.jobs.synthetic.keywords import keywords
from raylign.jobs.synthetic.outputs import write_data, write_dropped
from raylign.jobs.synthetic.page import job_page
from raylign.jobs.synthetic.passages import library_key, passages_for
from raylign.jobs.synthetic.prompts import PROMPTS_VERSION, TaskTexts
from raylign.jobs.synthetic.rows import Dropped, Row, StageResult, stage_result
from raylign.jobs.synthetic.score import score, scored_rows
from raylign.jobs.synthetic.selection import Selection, select
from raylign.jobs.synthetic.teacher import Teacher
from raylign.jobs.synthetic.verify import verify_rows
from raylign.rewards.tasks.config import is_path
from raylign.rewards.tasks.opening import open_task
from raylign.rewards.tasks.task import Task

MAY_CHANGE_ON_RESUME = ("dry_run", "num_engines", "answer_deadline_s", "selection", "teacher")
"""None of them changes a row that is there: replies of another teacher are refused by their key."""
NEEDS_ROWS = ("generate", "verify", "solve", "score")
"""Stages without whose rows there is nothing to go on with."""


def synthesize(config: SynthesizeConfig) -> dict[str, Any] | None:
    """Check, make rows, select, report; None for a dry run."""
    given = read_given(config)
    findings = examine_synthesis(config, given)
    findings.attempt("folder", lambda: check_job_folder(config.folder, config, config.resume, MAY_CHANGE_ON_RESUME))
    if config.dry_run:
        return _dry_run(config, given, findings)
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
            write_atomically(config.folder / "teacher.json", json.dumps(_teacher_facts(teacher), indent=2) + "\n")
        rows = stages["score"].rows
        dropped = [each for result in stages.values() for each in result.dropped]
        write_dropped(config.folder, dropped)
        selection = select(scored_rows(rows), config.rows.num_kept, config.selection, config.seed)
        test = readable_test(task, given)
        write_data(config.folder, rows, selection, test, task)
        summary = _summary(config, stages, selection, teacher, pipeline.resumed) | {
            "num_test": len(test),
            "test_rows_without_readable_label": len(given.test) - len(test),
            "warnings": list(given.warnings),
        }
        _write_summary(config, summary, rows, dropped)
    _print(summary, config.folder)
    return summary


class Pipeline:
    """The stages in their order; each is decided by those before it and by its own settings."""

    def __init__(
        self, config: SynthesizeConfig, given: Given, task: Task, teacher: Teacher, base: BaseModelAnswers
    ) -> None:
        self._config = config
        self._given = given
        self._task = task
        self._teacher = teacher
        self._base = base
        self.resumed: list[str] = []
        """Stages that were there already."""

    async def run(self) -> dict[str, StageResult]:
        """By name, in order."""
        config, task, teacher = self._config, self._task, self._teacher
        texts = TaskTexts(config.instruction, task.input_instruction, task.output_instruction)
        demos, seed, rows = self._given.demos, config.seed, config.rows
        done: dict[str, StageResult] = {}
        key = self._first_key(texts)
        passages: list[str] = []
        if config.passage_paths:
            key = key_of(key, config.domain, library_key(config.passage_paths), rows.num_passages)
            material = Material(texts, demos, seed=seed)
            words = await self._stage("keywords", key, lambda: keywords(teacher, material, config.domain), done)
            found = await self._stage("passages", key, lambda: passages_for(config, words.facts["query"]), done)
            passages = found.facts["passages"]
        material = Material(texts, demos, passages, seed)
        key = key_of(key, rows.num_rows, rows.pattern_demos, rows.demos_shown, rows.passage_characters)

        async def write() -> StageResult:
            pattern = await describe(teacher, material, rows)
            made = await generate(teacher, material, pattern, rows)
            made.facts["pattern"] = pattern
            return made

        await self._stage("generate", key, write, done)
        key = key_of(key, rows.num_votes, rows.own_vote, rows.min_votes)
        written = done["generate"].rows
        await self._stage("verify", key, lambda: verify_rows(teacher, task, written, rows, seed), done)
        initial = done["verify"].rows
        key = key_of(key, self._base.policy, config.template, config.scoring.max_tokens)
        key = key_of(key, config.engine.dtype, config.engine.max_model_len, config.deterministic)
        await self._stage("solve", key, lambda: solve(self._base, initial, config.scoring.greedy()), done)
        solved = done["solve"].rows
        shown = [demo.input for demo in demos]
        await self._stage("adapt", key, lambda: adapt(teacher, solved, seed, shown), done)
        rewrites = done["adapt"].rows
        await self._stage(
            "verify_rewrites", key, lambda: verify_rows(teacher, task, rewrites, rows, seed, "verify_rewrites"), done
        )
        every = [*solved, *done["verify_rewrites"].rows]
        key = key_of(key, config.scoring.model_dump(mode="json"))
        await self._stage("score", key, lambda: score(self._base, every, config.scoring.sampled()), done)
        return done

    async def _stage(self, name: str, key: str, make: Any, done: dict[str, StageResult]) -> StageResult:
        # a stage is also decided by what came before it
        before = [asdict(row) for result in done.values() for row in result.rows]
        done[name] = await stage_result(self._config.folder, name, key_of(name, key, before), make, self.resumed)
        result = done[name]
        if name in NEEDS_ROWS and not result.rows:
            reasons = sorted({each.reason for each in result.dropped}) or ["there were none"]
            raise ValueError(
                f"no row is left after the stage {name}: {'; '.join(reasons)}; see {self._config.folder / name}.json"
            )
        return result

    def _first_key(self, texts: TaskTexts) -> str:
        config = self._config
        teacher = config.teacher
        return key_of(
            PROMPTS_VERSION,
            asdict(texts),
            task_key(config.task),
            [asdict(demo) for demo in self._given.demos],
            config.seed,
            [teacher.model, teacher.temperature, teacher.max_tokens, teacher.max_prompt_tokens],
        )


def task_key(task: Any) -> str:
    """Of what decides how answers are read: a user's own code by its content."""
    if not isinstance(task, str):
        return key_of(task.model_dump(mode="json"))
    if not is_path(task):
        return key_of(task)
    path = Path(task).expanduser()
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return key_of([(file.name, file.read_text("utf-8", "replace")) for file in files])


def readable_test(task: Task, given: Given) -> list[Any]:
    """Test rows whose label the task reads; another could never be answered right."""
    labels = task.read_labels([row.output for row in given.test]) if given.test else []
    return [row for row, label in zip(given.test, labels, strict=True) if label is not None]


def _dry_run(config: SynthesizeConfig, given: Given, findings: Findings) -> None:
    print_findings(findings)
    with closing(open_task(config.task)) as task:
        texts = TaskTexts(config.instruction, task.input_instruction, task.output_instruction)
    print_estimate(config, estimate(config, Material(texts, given.demos), bool(config.passage_paths)))


def _teacher_facts(teacher: Teacher) -> dict[str, Any]:
    meter = teacher.client.meter
    return {
        "total": asdict(meter.total),
        "by_stage": {stage: asdict(usage) for stage, usage in meter.by_stage.items()},
        "this_session": asdict(meter.this_session),
        "repeated_in_flight": teacher.repeated_in_flight,
    }


def _summary(
    config: SynthesizeConfig,
    stages: dict[str, StageResult],
    selection: Selection,
    teacher: Teacher,
    resumed: Sequence[str],
) -> dict[str, Any]:
    reasons: dict[str, int] = {}
    for result in stages.values():
        for each in result.dropped:
            reasons[f"{each.stage}: {each.reason}"] = reasons.get(f"{each.stage}: {each.reason}", 0) + 1
    return {
        "num_selected": len(selection.row_ids),
        "num_scored": len(stages["score"].rows),
        "num_learnable": selection.num_learnable,
        "shortfall": selection.shortfall,
        "selected_ids": list(selection.row_ids),
        "pass_counts": {str(k): count for k, count in selection.counts.items()},
        "pass_counts_initial": _pass_counts([row for row in stages["score"].rows if row.stage == "initial"]),
        "num_answers_each": config.scoring.num_answers,
        "stages": {
            name: {"rows": len(result.rows), "dropped": len(result.dropped)}
            | {fact: value for fact, value in result.facts.items() if fact not in ("passages", "numbers")}
            for name, result in stages.items()
        },
        "dropped_by_reason": reasons,
        "teacher": _teacher_facts(teacher),
        "resumed_stages": list(resumed),
        "deterministic": config.deterministic,
        "note": (
            "the same files after any interruption"
            if config.deterministic
            else "answers of the base model are sampled anew where a job was interrupted: with `deterministic` they are "
            "the same"
        ),
    }


def _pass_counts(rows: Sequence[Row]) -> dict[str, int]:
    counts: dict[int, int] = {}
    for row in rows:
        counts[row.num_right] = counts.get(row.num_right, 0) + 1
    return {str(k): counts[k] for k in sorted(counts)}


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
