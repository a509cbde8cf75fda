"""Scores of pairs by reward servers, kept as they come.

Given pairs, servers and a journal; gives each pair's scores or why it has none. As many batches are under way as there
are servers. A pair that is scored is in the journal before the next one is asked for: a job that dies goes on there.

    pairs ── not in the journal ──▶ free server ── scored ──▶ journal
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raylign.jobs.data.pairs_to_score import PairToScore
from raylign.jobs.data.row_journal import RowJournal, key_of
from raylign.rewards.pair_scores import bradley_terry_probability
from raylign.rewards.registry import RewardConfig
from raylign.rewards.scoring import distinct_names
from raylign.rollout.sample import Completion, Group, Prompt

PAIRS_AT_ONCE = 64
Ask = Callable[[list[Group]], Awaitable[list[Group]]]
"""A server's `score`."""


@dataclass(frozen=True)
class PairScores:
    """One pair, by repeats: scores of chosen and rejected."""

    total: tuple[list[float], list[float]]
    by_reward: dict[str, tuple[list[float | None], list[float | None]]] = field(default_factory=dict)
    """Unweighted; None where the reward does not apply."""

    def as_line(self) -> dict[str, Any]:
        """As plain values."""
        return {"total": self.total, "by_reward": self.by_reward}

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> PairScores:
        """What `as_line` gave, after JSON."""
        by_reward = {name: (list(sides[0]), list(sides[1])) for name, sides in line["by_reward"].items()}
        return cls((list(line["total"][0]), list(line["total"][1])), by_reward)


@dataclass(frozen=True)
class NotScored:
    """Why a pair has no scores."""

    reason: str
    message: str


def key_of_pair(pair: PairToScore, identity: Sequence[Any]) -> str:
    """Everything that decides its scores. `identity`: of the scorer and its repeats."""
    texts = [pair.prompt, pair.item.messages, pair.chosen, pair.rejected, pair.item.references]
    return key_of(identity, texts, pair.item.row)


async def score_all(
    pairs: Sequence[PairToScore],
    rewards: Sequence[RewardConfig],
    repeats: int,
    asks: Sequence[Ask],
    journal: RowJournal,
    encode: Callable[[str], Sequence[int]],
    say: Callable[[int], None],
) -> list[PairScores | NotScored]:
    """In the order of the pairs. A failure is not kept, so that it is tried again on resume."""
    identity = [[reward.model_dump(mode="json") for reward in rewards], repeats]
    keys = [key_of_pair(pair, identity) for pair in pairs]
    found: dict[int, PairScores | NotScored] = {}
    for place, (pair, key) in enumerate(zip(pairs, keys, strict=True)):
        if journal.has(pair.row_id, key):
            found[place] = PairScores.from_line(journal.result(pair.row_id, key))
    missing = [place for place in range(len(pairs)) if place not in found]
    batches = iter([missing[start : start + PAIRS_AT_ONCE] for start in range(0, len(missing), PAIRS_AT_ONCE)])
    say(len(found))

    async def serve(ask: Ask) -> None:
        for batch in batches:  # each server takes the next that nobody has
            groups = [_group(place, pairs[place], encode) for place in batch]
            for place in batch:
                journal.begin(pairs[place].row_id, keys[place])
            answers = [await ask(groups) for _ in range(repeats)]
            for number, place in enumerate(batch):
                scores = _scores(pairs[place], [answer[number] for answer in answers], distinct_names(rewards))
                if isinstance(scores, PairScores):
                    journal.append(pairs[place].row_id, keys[place], scores.as_line())
                found[place] = scores
            say(len(found))

    await asyncio.gather(*map(serve, asks))
    return [found[place] for place in range(len(pairs))]


def new_columns(
    scores: PairScores, is_equal: bool, signs: Mapping[str, float], columns: str, suffix: str
) -> dict[str, Any]:
    """The columns that a row gains. `signs`: of the rewards' weights, since a cost speaks against an answer."""
    line: dict[str, Any] = {}
    if columns in ("sum", "both"):
        line |= _columns("", scores.total[0], scores.total[1], 1.0, is_equal)
    if columns in ("each", "both"):
        for name, (chosen, rejected) in scores.by_reward.items():
            line |= _columns(f"_{name}", chosen, rejected, signs.get(name, 1.0), is_equal)
    return {f"{name}{suffix}": value for name, value in line.items()}


def _columns(
    name: str, chosen: Sequence[float | None], rejected: Sequence[float | None], sign: float, is_equal: bool
) -> dict[str, Any]:
    both = [(one, other) for one, other in zip(chosen, rejected, strict=True) if one is not None and other is not None]
    probability = (
        bradley_terry_probability([sign * one for one, _ in both], [sign * two for _, two in both]) if both else None
    )
    return {
        f"chosen_score{name}": _mean(chosen),
        f"rejected_score{name}": _mean(rejected),
        f"bt_prob{name}": 0.5 if is_equal and both else probability,
    }


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return math.fsum(present) / len(present) if present else None


def _scores(pair: PairToScore, answers: Sequence[Group], names: Sequence[str]) -> PairScores | NotScored:
    for answer in answers:
        if answer.failures:
            first = answer.failures[0]
            reason = "the score is not finite" if first.kind == "nan" else f"not scored ({first.kind})"
            return NotScored(reason, f"{first.where}: {first.message}")
    totals = [answer.total_rewards for answer in answers]
    if any(total is None or not np.isfinite(total).all() for total in totals):
        return NotScored("no reward applies", "every reward left it out")
    last = 0 if pair.is_equal else 1  # a model scores equal texts apart by the last bits, as they lay in its batch
    of_total = [total for total in totals if total is not None]
    by_reward = {
        name: tuple([_finite(answer.rewards[name][side]) for answer in answers] for side in (0, last))
        for name in names
        if all(name in answer.rewards for answer in answers)
    }
    total = tuple([float(each[side]) for each in of_total] for side in (0, last))
    return PairScores((total[0], total[1]), {name: (sides[0], sides[1]) for name, sides in by_reward.items()})


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _group(place: int, pair: PairToScore, encode: Callable[[str], Sequence[int]]) -> Group:
    """The pair as a server takes it: one prompt with two completions."""
    row = pair.item.row
    prompt = Prompt(
        prompt_id=pair.row_id,
        ordinal=place,
        text=pair.prompt,
        token_ids=np.zeros(0, np.int32),
        references=pair.item.references,
        messages=tuple(dict(message) for message in pair.item.messages),
        row=row,
    )
    completions = []
    for side, text in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        ids = np.asarray(encode(text), np.int32)
        stop = "stop" if row.get(f"{side}_finished", True) else "length"
        completions.append(Completion(ids, np.zeros(len(ids), np.float32), (), stop, text))  # type: ignore[arg-type]
    return Group(prompt, tuple(completions))
