"""The stages of a synthesis in their order, each read from its file where it is there and made where it is not.

Given a config, the task, a teacher and a base model; gives what every stage made. A stage's key is of its settings and
of all rows before it: a file that was made from something else is refused.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from raylign.jobs.data.row_journal import key_of
from raylign.jobs.synthetic.adapt import adapt, solve
from raylign.jobs.synthetic.base_answers import BaseModelAnswers
from raylign.jobs.synthetic.config import SynthesizeConfig
from raylign.jobs.synthetic.generate import Material, describe, generate
from raylign.jobs.synthetic.given import Given
from raylign.jobs.synthetic.keywords import keywords
from raylign.jobs.synthetic.passages import library_key, passages_for
from raylign.jobs.synthetic.prompts import PROMPTS_VERSION, TaskTexts
from raylign.jobs.synthetic.rows import StageResult, stage_result
from raylign.jobs.synthetic.score import score
from raylign.jobs.synthetic.teacher import Teacher
from raylign.jobs.synthetic.verify import verify_rows
from raylign.rewards.tasks.config import is_path
from raylign.rewards.tasks.task import Task

NEEDS_ROWS = ("generate", "verify", "solve", "score")
"""Stages without whose rows there is nothing to go on with."""


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
