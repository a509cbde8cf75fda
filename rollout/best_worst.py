"""Best and worst of n answers to one prompt, for several n from one draw.

Given an `AnswerSet` (all answers to a prompt with their scores); gives for each n the row that training reads, or the
reason why there is none. The first n answers serve n, so smaller n are nested in larger ones; on ties the first index
wins (Gui et al. 2024, arXiv 2406.00832, sampler of the public code).

Answers are drawn anew for every prompt and never de-duplicated: β*_n and n/(n+1) hold for independent draws only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

DropReason = Literal["tied", "same_text", "unscored", "empty"]
DROP_REASONS: tuple[DropReason, ...] = get_args(DropReason)
"""tied: all n scores are equal, so best and worst are one answer and the margin is 0 whatever the policy does;
same_text: best and worst read the same although their scores differ; unscored: one of the n has no score, so there is
no best of n; empty: the best or the worst has no text, which training refuses."""


@dataclass(frozen=True)
class Answer:
    """One answer as it was sampled."""

    text: str
    token_ids: tuple[int, ...]
    """With the end token where it finished."""
    finished: bool
    """False where it was cut at the token limit: it carries no end token, although training will add one."""


@dataclass(frozen=True)
class AnswerSet:
    """All answers of one draw for one prompt: a line of the raw file."""

    ordinal: int
    """Place of the prompt in the order of the seed."""
    prompt_id: str
    prompt: str
    """The rendered text, exactly as it was fed."""
    answers: tuple[Answer, ...]
    scores: tuple[float | None, ...]
    """Total reward of each answer; None where scoring failed."""
    rewards: Mapping[str, tuple[float | None, ...]]
    """The same by reward, unweighted."""
    policy: str
    """Which model answered: path and fingerprint of its weights."""
    seed: int
    fingerprint: str
    """Of the data."""
    references: tuple[str, ...] = ()
    messages: tuple[Mapping[str, str], ...] = ()
    row: Mapping[str, Any] = field(default_factory=dict)
    """The data row that the prompt came from."""
    failures: tuple[str, ...] = ()
    """Why scores are missing."""

    def as_line(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> AnswerSet:
        """What `as_line` gave, after JSON. Raises LookupError or TypeError for anything else."""
        answers = tuple(
            Answer(answer["text"], tuple(answer["token_ids"]), answer["finished"]) for answer in line["answers"]
        )
        rewards = {name: tuple(values) for name, values in line["rewards"].items()}
        lists = {name: tuple(line[name]) for name in ("scores", "references", "messages", "failures")}
        return cls(**{**line, **lists, "answers": answers, "rewards": rewards})


def check_sizes(sizes: Sequence[int]) -> None:
    """Raise unless the n are at least 2 and rising."""
    if not sizes:
        raise ValueError("best_of is empty: give at least one number of answers, such as [8]")
    if any(n < 2 for n in sizes):
        raise ValueError(f"best_of is {list(sizes)}: a best and a worst need at least 2 answers")
    if list(sizes) != sorted(set(sizes)):
        raise ValueError(f"best_of is {list(sizes)}: write each number once, in rising order: {sorted(set(sizes))}")


def best_and_worst(scores: Sequence[float], n: int) -> tuple[int, int]:
    """Indexes of the best and the worst of the first n; the first of equals. Equal indexes: all n are tied."""
    if not 2 <= n <= len(scores):
        raise ValueError(f"n is {n}: allowed are 2 to {len(scores)}, the number of scores")
    indexes = range(n)
    return max(indexes, key=scores.__getitem__), min(indexes, key=scores.__getitem__)


def preference_row(drawn: AnswerSet, n: int) -> dict[str, Any] | DropReason:
    """The row of the file for n."""
    if not 2 <= n <= len(drawn.answers):
        raise ValueError(f"prompt {drawn.prompt_id} has {len(drawn.answers)} answers: there is no best of {n}")
    scores = [score for score in drawn.scores[:n] if score is not None and math.isfinite(score)]
    if len(scores) < n:
        return "unscored"
    best, worst = best_and_worst(scores, n)
    if best == worst:
        return "tied"
    chosen, rejected = drawn.answers[best], drawn.answers[worst]
    if chosen.text == rejected.text:
        return "same_text"
    if not chosen.text.strip() or not rejected.text.strip():
        return "empty"
    return {
        "prompt": drawn.prompt,
        "chosen": chosen.text,
        "rejected": rejected.text,
        "sft_target": chosen.text,
        "n": n,
        "scores": scores,
        "chosen_score": scores[best],
        "rejected_score": scores[worst],
        "chosen_finished": chosen.finished,
        "rejected_finished": rejected.finished,
        "chosen_index": best,
        "rejected_index": worst,
        "seed": drawn.seed,
        "policy": drawn.policy,
        "prompt_id": drawn.prompt_id,
        "ordinal": drawn.ordinal,
        "fingerprint": drawn.fingerprint,
        "references": list(drawn.references),
        "messages": [dict(message) for message in drawn.messages],
        "row": dict(drawn.row),
    }


def original_lines(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows in the published JSONL format, one `{prompt: {...}}` a line; a repeated prompt appends its next pair.

    `sft_target` is the best answer of the first pair: the published sampler leaves it out, its loader asks for it."""
    lines: dict[str, dict[str, Any]] = {}
    for row in rows:
        entry = lines.setdefault(row["prompt"], {"responses": [], "pairs": [], "sft_target": row["sft_target"]})
        start = len(entry["responses"])
        entry["responses"] += [row["chosen"], row["rejected"]]
        entry["pairs"].append([start, start + 1])
    return [{prompt: entry} for prompt, entry in lines.items()]
