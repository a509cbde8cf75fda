"""The base model's answers to rows, judged: by the same engines, prompts and rewards as training and evaluation.

Given rows with labels and a sampling; gives for each row its answers with a verdict each. Answers lie in a draw log, so
none is drawn twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from raylign.actors.cluster import ray_cluster
from raylign.jobs.data.draw_log import DrawIdentity, DrawLog
from raylign.jobs.data.drawing import Drawing, DrawReport, draw
from raylign.jobs.data.policy_identity import policy_identity
from raylign.jobs.run.checkpoints import model_folder
from raylign.jobs.run.folder import write_atomically
from raylign.jobs.synthetic.config import SynthesizeConfig
from raylign.jobs.synthetic.rows import Row
from raylign.rewards.tasks.config import TaskConfig
from raylign.rewards.tasks.task import Task
from raylign.rollout.data.config import DataConfig
from raylign.rollout.data.prompts import PromptSource
from raylign.rollout.model_folder import load_tokenizer
from raylign.rollout.sampling import AnswerSamplingConfig


@dataclass(frozen=True)
class Judged:
    """The answers to one row."""

    verdicts: tuple[bool, ...]
    texts: tuple[str, ...]

    @property
    def right_answers(self) -> tuple[str, ...]:
        return tuple(text for text, verdict in zip(self.texts, self.verdicts, strict=True) if verdict)


@dataclass
class BaseReport:
    """What a stage drew."""

    by_row: dict[str, Judged] = field(default_factory=dict)
    why_missing: dict[str, str] = field(default_factory=dict)
    """By row: too long, or what the engine said."""
    num_unjudged: int = 0
    """Answers whose verdict failed (a task of the user's own); they count as wrong."""
    num_tokens: int = 0
    seconds: float = 0.0


class BaseModelAnswers(Protocol):
    """Where verdicts come from."""

    @property
    def policy(self) -> str:
        """Which model answers: name and fingerprint of its weights."""

    async def answers(self, stage: str, rows: Sequence[Row], sampling: AnswerSamplingConfig) -> BaseReport:
        """Of every row."""


def prompt_data(source: Path, template: str, split: str = "train") -> DataConfig:
    """How rows with the columns `prompt` and `output` are fed, here, in training and in evaluation."""
    return DataConfig(
        source=str(source),
        split=split,
        format="columns",
        prompt="{prompt}",
        reference="{output}",
        template=template,
        shuffle=False,
        skip_too_long=True,
    )


def prompt_row(task: Task, row: Row) -> dict[str, str]:
    """The columns that `prompt_data` reads."""
    return {"row_id": row.row_id, "prompt": task.prompt(row.input), "output": row.label}


class EngineAnswers:
    """By the rollout workers."""

    def __init__(self, config: SynthesizeConfig, task: Task) -> None:
        self._config = config
        self._task = task

    @property
    def policy(self) -> str:
        return policy_identity(model_folder(self._config.model))

    async def answers(self, stage: str, rows: Sequence[Row], sampling: AnswerSamplingConfig) -> BaseReport:
        config, found = self._config, BaseReport()
        if not rows:
            return found
        model_path = model_folder(config.model)
        file = config.folder / f"{stage}.rows.jsonl"
        lines = (json.dumps(prompt_row(self._task, row), ensure_ascii=False) + "\n" for row in rows)
        write_atomically(file, "".join(lines))
        room = config.engine.max_model_len - sampling.max_tokens
        data = prompt_data(file, config.template)
        source = PromptSource.open(data, load_tokenizer(model_path), config.seed, room, needs_references=True)
        prompts = source.take(0, len(source))
        identity = DrawIdentity(self.policy, source.fingerprint, sampling.num_completions)
        report = DrawReport()
        with DrawLog(config.folder / f"{stage}.draws.jsonl", identity) as log:
            if any(prompt.ordinal not in log.drawn for prompt in prompts):
                with ray_cluster(config.cluster):
                    rewards = [TaskConfig(task=config.task, values="validation")]
                    drawing = Drawing.of(config, f"base model: {stage}", model_path, sampling, rewards)
                    await draw(drawing, prompts, log, report)
            for drawn in log.drawn.values():
                scores = drawn.scores
                found.num_unjudged += sum(score is None for score in scores)
                found.by_row[str(drawn.row["row_id"])] = Judged(
                    tuple(score == 1.0 for score in scores), tuple(answer.text for answer in drawn.answers)
                )
                found.num_tokens += sum(len(answer.token_ids) for answer in drawn.answers)
        failed: Mapping[str, str] = {
            str(prompt.row["row_id"]): report.failed[prompt.prompt_id]
            for prompt in prompts
            if prompt.prompt_id in report.failed
        }
        found.seconds = report.seconds
        for row in rows:
            if row.row_id not in found.by_row:
                found.why_missing[row.row_id] = failed.get(row.row_id, f"too long: more than {room} tokens")
        return found
