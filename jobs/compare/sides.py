"""The answers of both sides of a comparison, scored.

Given a `CompareConfig`; gives a `Side` each: from a file, scored here, or from a model, drawn and scored through the
rollout pool, one model after the other. Both sides answer the same prompts in the same order.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from raylign.jobs.compare.answer_files import SingleAnswer, answer_of_draw, check_aligned, read_answers
from raylign.jobs.compare.config import CompareConfig
from raylign.jobs.config.references import compare_with_references
from raylign.jobs.data.draw_log import DrawIdentity, DrawLog
from raylign.jobs.data.drawing import Drawing, DrawReport, draw
from raylign.jobs.data.policy_identity import policy_identity
from raylign.jobs.run.checkpoints import model_folder
from raylign.jobs.run.engine_shares import engine_seed
from raylign.rewards.base import Item
from raylign.rewards.registry import AnyRewardConfig
from raylign.rewards.scoring import Scorer
from raylign.rollout.data.prompts import PromptSource
from raylign.rollout.model_folder import load_tokenizer
from raylign.rollout.sample import IntArray, Prompt


@dataclass(frozen=True)
class Side:
    """One side with its answers."""

    label: str
    answers: Sequence[SingleAnswer | None]
    """In the order of the prompts; None where the model gave none."""
    failures: Sequence[str]
    """Why answers or scores are missing."""
    model_path: str | None = None
    prompt_ids: Mapping[int, IntArray] = field(default_factory=dict)
    """Of a model: what it was fed, by place."""
    answer_ids: Mapping[int, IntArray] = field(default_factory=dict)
    """Of a model: what it said, by place, end token included."""


def gather_sides(config: CompareConfig) -> dict[str, Side]:
    """Both sides; Ray must be up where one of them is a model."""
    sides = {
        key: _from_model(config, key, index) if side.model is not None else _from_file(config, key)
        for index, (key, side) in enumerate(config.sides.items())
    }
    if any(side.model_path is None for side in sides.values()):  # two models were given the same rows
        check_aligned(sides["new"].answers, sides["reference"].answers)
    return sides


def _from_file(config: CompareConfig, key: str) -> Side:
    side = config.sides[key]
    assert side.answers is not None
    answers, failures = scored(read_answers(side.answers, side.best_of), config.rewards)
    return Side(side.label, answers, failures)


def scored(answers: Sequence[SingleAnswer], rewards: Sequence[AnyRewardConfig]) -> tuple[list[SingleAnswer], list[str]]:
    """The answers with the total reward of each, whatever score they had; and why scores are missing."""
    if not rewards:
        return [replace(answer, score=None) for answer in answers], []
    scorer = Scorer(rewards)
    try:
        results = scorer.score([_item(answer) for answer in answers])
    finally:
        scorer.close()
    totals = [float(result.total[0]) for result in results]
    failures = [f"{name}: {failure.kind}: {failure.message}" for each in results for name, failure in each.failures]
    return [
        replace(answer, score=total if math.isfinite(total) else None)
        for answer, total in zip(answers, totals, strict=True)
    ], failures


def _item(answer: SingleAnswer) -> Item:
    return Item(
        prompt=answer.prompt,
        completions=(answer.text,),
        references=answer.references,
        messages=tuple(dict(message) for message in answer.messages),
        row=dict(answer.row),
        num_tokens=() if answer.num_tokens is None else (answer.num_tokens,),
        finished=(answer.finished,),
    )


def _from_model(config: CompareConfig, key: str, index: int) -> Side:
    side = config.sides[key]
    assert side.model is not None
    model_path = model_folder(side.model)
    prompts, fingerprint = prompts_of(config, model_path)
    report = DrawReport()
    drawing = Drawing(
        title=f"{config.name}, {key}",
        model_path=model_path,
        sampling=config.sampling.of_one(),
        rewards=config.rewards,
        # with the same noise, equal models would give equal answers: ties, where independent draws win and lose
        seed=engine_seed(config.seed, index, 0),
        deterministic=False,
        engine=config.engine,
        num_engines=config.num_engines,
        cluster=config.cluster,
        answer_deadline_s=config.answer_deadline_s,
    )
    identity = DrawIdentity(policy_identity(model_path), fingerprint, num_answers=1)
    with DrawLog(draws_path(config, key), identity) as log:
        asyncio.run(draw(drawing, prompts, log, report))
        drawn = [log.drawn.get(prompt.ordinal) for prompt in prompts]
    said = {place: one.answers[0].token_ids for place, one in enumerate(drawn) if one is not None}
    return Side(
        label=side.label,
        answers=[None if one is None else answer_of_draw(one) for one in drawn],
        failures=[
            *(f"prompt {prompt_id}: {why}" for prompt_id, why in report.failed.items()),
            *(failure for one in drawn if one is not None for failure in one.failures),
        ],
        model_path=model_path,
        prompt_ids={place: prompt.token_ids for place, prompt in enumerate(prompts)},
        answer_ids={place: np.array(token_ids, np.int32) for place, token_ids in said.items()},
    )


def prompts_of(config: CompareConfig, model_path: str) -> tuple[list[Prompt], str]:
    """The prompts as this model is fed them, and the fingerprint of the data."""
    room = config.engine.max_model_len - config.sampling.max_tokens
    compares = compare_with_references(config.rewards)
    source = PromptSource.open(config.data, load_tokenizer(model_path), config.seed, room, needs_references=compares)
    return source.take(0, min(config.num_prompts or len(source), len(source))), source.fingerprint


def draws_path(config: CompareConfig, key: str) -> Path:
    """The raw answers of a side that is a model."""
    return config.folder / f"draws_{key}.jsonl"
