"""Scores of one answer to each row of a pool, kept by content: what was scored once is never scored again.

Given rewards, rows and answers; gives a score or the reason why there is none. Rewards that compare words run in as
many processes as there are cores. The cache's key is text, references and scorer with its version, never a name.
"""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from raylign.jobs.data.grpo_config import PUBLISHED_REWARD_MODEL, GrpoDataConfig
from raylign.jobs.data.policy_identity import policy_identity
from raylign.jobs.data.pool import PoolRow, file_safe
from raylign.jobs.data.pool_answers import PoolAnswer
from raylign.jobs.data.row_journal import RowJournal, key_of
from raylign.jobs.run.output_folder import hold
from raylign.jobs.run.progress import Progress
from raylign.rewards.base import Item, RewardFailure
from raylign.rewards.overlap import OVERLAP_VERSION, BleuConfig, BleuRougeF1Config, RougeConfig
from raylign.rewards.registry import AnyRewardConfig, config_from_dict
from raylign.rewards.scoring import Scorer

WORD_REWARDS = (BleuConfig, RougeConfig, BleuRougeF1Config)
"""Plain Python: one process scores on one core."""
ROWS_AT_ONCE = 256
LEAST_ROWS_FOR_PROCESSES = 2048
"""Below it a process takes longer to start than to score."""


@dataclass(frozen=True)
class PoolScores:
    """By the row's place in the source."""

    scores: dict[int, float]
    why_missing: dict[int, str]
    num_cached: int


def scorer_of(config: GrpoDataConfig) -> tuple[str, list[AnyRewardConfig]]:
    """The scorer's name, for files and the column, and the rewards that it is made of."""
    if config.metric is None:
        return "-".join(dict.fromkeys(reward.name for reward in config.rewards)), list(config.rewards)
    if config.metric == "rm":
        return "rm", [config_from_dict({"name": "reward_model", "model": PUBLISHED_REWARD_MODEL})]
    return config.metric, [config_from_dict({"name": config.metric})]


def scorer_identity(rewards: Sequence[AnyRewardConfig]) -> list[Any] | None:
    """Everything about the scorer that decides a score; None where that cannot be known (code of the user's, a server),
    so that nothing is kept."""
    parts: list[Any] = []
    for reward in rewards:
        if isinstance(reward, WORD_REWARDS):
            parts.append([OVERLAP_VERSION, reward.model_dump(mode="json")])
        elif reward.name in ("reward_model", "bertscore"):
            parts.append([policy_identity(reward.model), reward.model_dump(mode="json")])
        else:
            return None
    return parts


def score_pool(config: GrpoDataConfig, rows: Sequence[PoolRow], answers: Mapping[int, PoolAnswer]) -> PoolScores:
    """Score the answered rows; an empty answer scores 0."""
    name, rewards = scorer_of(config)
    identity = scorer_identity(rewards)
    answered = [row for row in rows if row.index in answers]
    if identity is None:
        found = dict(_scored(config, rewards, [(str(row.index), row, answers[row.index]) for row in answered]))
        return _by_row({row.index: str(row.index) for row in answered}, found, 0)
    keys = {row.index: key_of(identity, row.prompt, answers[row.index].text, row.references) for row in answered}
    folder = config.output_dir / "scored_outputs"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{file_safe(name)}-{key_of(identity)[:8]}.jsonl"
    known: dict[str, float | str] = {}
    with hold(folder), RowJournal(path, "score") as journal:
        missing: dict[str, tuple[str, PoolRow, PoolAnswer]] = {}
        for row in answered:
            key = keys[row.index]
            if journal.has(key, key):
                known[key] = journal.result(key, key)
            else:
                missing[key] = (key, row, answers[row.index])
        num_cached = sum(key in known for key in keys.values())
        for key, score in _scored(config, rewards, list(missing.values())):
            known[key] = score
            if isinstance(score, float):  # a failure is tried again the next time
                journal.append(key, key, score)
    return _by_row(keys, known, num_cached)


def _by_row(keys: Mapping[int, str], known: Mapping[str, float | str], num_cached: int) -> PoolScores:
    found = {index: known[key] for index, key in keys.items()}
    return PoolScores(
        {index: score for index, score in found.items() if isinstance(score, float)},
        {index: why for index, why in found.items() if isinstance(why, str)},
        num_cached,
    )


def _scored(
    config: GrpoDataConfig, rewards: Sequence[AnyRewardConfig], asked: Sequence[tuple[str, PoolRow, PoolAnswer]]
) -> Iterator[tuple[str, float | str]]:
    """(key, score) in the order asked; in place of the score the words of a failure."""
    for key, _, answer in asked:
        if not answer.text:
            yield key, 0.0
    asked = [each for each in asked if each[2].text]
    parts = [asked[start : start + ROWS_AT_ONCE] for start in range(0, len(asked), ROWS_AT_ONCE)]
    if not parts:
        return
    items = ([_item(row, answer) for _, row, answer in part] for part in parts)
    num_done = 0
    with Progress("scores", len(asked), unit="answers") as progress:
        for part, scores in zip(parts, _score_parts(config, rewards, items, len(asked)), strict=True):
            yield from zip([key for key, _, _ in part], scores, strict=True)
            num_done += len(part)
            progress.advance(num_done)


def _score_parts(
    config: GrpoDataConfig, rewards: Sequence[AnyRewardConfig], parts: Iterator[list[Item]], num_answers: int
) -> Iterator[list[float | str]]:
    """In order."""
    num_processes = config.num_processes or len(os.sched_getaffinity(0))
    compares_words = all(isinstance(reward, WORD_REWARDS) for reward in rewards)
    if compares_words and num_processes > 1 and num_answers >= LEAST_ROWS_FOR_PROCESSES:
        # "spawn": a copy of this process would hold its threads' locks
        with ProcessPoolExecutor(
            num_processes, multiprocessing.get_context("spawn"), initializer=_start, initargs=(list(rewards),)
        ) as processes:
            yield from processes.map(_score_there, parts)
        return
    scorer = Scorer(rewards)
    try:
        for items in parts:
            yield _totals(scorer, items)
    finally:
        scorer.close()


_scorer: Scorer | None = None
"""Of a scoring process."""


def _start(rewards: Sequence[AnyRewardConfig]) -> None:
    global _scorer
    _scorer = Scorer(rewards)


def _score_there(items: Sequence[Item]) -> list[float | str]:
    assert _scorer is not None, "_start came first"
    return _totals(_scorer, items)


def _totals(scorer: Scorer, items: Sequence[Item]) -> list[float | str]:
    """The total of each answer in double precision, or why it has none."""
    scores_R = [scorer.score_with(index, items) for index in range(len(scorer.names))]
    weights = list(scorer.weights)
    totals: list[float | str] = []
    for number in range(len(items)):
        of_answer = [(name, scores[number][0]) for name, scores in zip(scorer.names, scores_R, strict=True)]
        failures = [(name, each) for name, each in of_answer if isinstance(each, RewardFailure)]
        numbers = [weight * each for weight, (_, each) in zip(weights, of_answer, strict=True)
                   if not isinstance(each, RewardFailure)]  # fmt: skip
        failed = next(((name, each) for name, each in failures if each.kind != "not_applicable"), None)
        if failed is not None:
            totals.append(f"{failed[0]}: {failed[1].kind}: {failed[1].message}")
        else:
            totals.append(math.fsum(numbers) if numbers else "no reward applies to it")
    return totals


def _item(row: PoolRow, answer: PoolAnswer) -> Item:
    return Item(
        prompt=row.prompt,
        completions=(answer.text,),
        references=row.references,
        row={"id": row.id, "source": row.source, "messages": row.messages},
        num_tokens=() if answer.num_tokens is None else (answer.num_tokens,),
        finished=(answer.finished,),
    )
