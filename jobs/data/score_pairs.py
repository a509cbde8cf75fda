"""`raylign data score-pairs`: both answers of preference pairs scored, with the probability that the first is better.

Given pairs in any format and rewards; gives a folder:

    scored.jsonl      the user's rows with `chosen_score`, `rejected_score` (means over repeats) and `bt_prob`, which
                      `data.pairs.probability` reads as a soft label; beside it the same in the format of the source
    summary.json      how many, by split, and what was left out by reason; `dropped.jsonl` names those rows
    scores.jsonl      every score, written as it comes: `--resume` goes on there

Rewards with models run in reward servers, one for each GPU; the others have processes of their own or need none.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from raylign.actors.cluster import ray_cluster
from raylign.actors.reward_server import RewardServer
from raylign.jobs.checks.findings import Findings
from raylign.jobs.checks.machine import Machine
from raylign.jobs.data.job_folder import check_job_folder, job_folder
from raylign.jobs.data.pair_scores import Ask, NotScored, PairScores, new_columns, score_all
from raylign.jobs.data.pairs_to_score import PairsOfSplit, PairToScore, read_pairs
from raylign.jobs.data.row_journal import RowJournal
from raylign.jobs.data.score_pairs_config import ALL_SPLITS, ScorePairsConfig
from raylign.jobs.data.scored_rows import ScoredRow, check_new_columns, write_scored
from raylign.jobs.run.folder import write_atomically
from raylign.jobs.run.output_folder import check_can_write
from raylign.jobs.run.progress import Progress
from raylign.jobs.run.roles import num_cluster_gpus, start_reward_server
from raylign.rewards.scoring import weights_by_name
from raylign.rollout.data.sources import split_names

MAY_CHANGE_ON_RESUME = ("columns", "suffix", "every")
"""None of them changes a score that is there. `every` below 1 is part of a score's key."""
NUM_NAMED = 3


def score_pairs(config: ScorePairsConfig) -> dict[str, Any]:
    """Check, score what is missing, write, summarise."""
    findings, splits = _checked(config)
    findings.raise_problems()
    pairs = [pair for split in splits for pair in split.pairs]
    with job_folder(config.folder, config, config.resume, MAY_CHANGE_ON_RESUME):
        with RowJournal(config.folder / "scores.jsonl", "score-pairs") as journal:
            scores = _scored(config, pairs, journal)
        return _write(config, splits, dict(zip([pair.row_id for pair in pairs], scores, strict=True)))


def examine_score_pairs(config: ScorePairsConfig, machine: Machine) -> Findings:
    """All checks before a start: the pairs, names of new columns, the folder."""
    return _checked(config)[0]


def _checked(config: ScorePairsConfig) -> tuple[Findings, list[PairsOfSplit]]:
    findings = Findings()
    splits = findings.attempt("data", lambda: read_pairs(config)) or []
    pairs = [pair for split in splits for pair in split.pairs]
    for split in splits:
        left_out = ", ".join(f"{count} {reason}" for reason, count in split.left_out.items())
        findings.fact(split.split, f"{len(split.pairs)} pairs" + (f"; left out: {left_out}" if left_out else ""))
    if splits and not pairs:
        findings.problems.append(f"{config.data.source}: not one pair can be scored: {_reasons(splits)}")
    if pairs:
        findings.attempt("suffix", lambda: _check_columns(config, pairs[0]))
    findings.attempt("folder", lambda: _check_folder(config))
    return findings, splits


def _check_folder(config: ScorePairsConfig) -> None:
    check_job_folder(config.folder, config, config.resume, MAY_CHANGE_ON_RESUME)
    check_can_write(config.folder)


def _check_columns(config: ScorePairsConfig, pair: PairToScore) -> None:
    names = weights_by_name(config.rewards)
    nothing = PairScores(([0.0], [0.0]), {name: ([0.0], [0.0]) for name in names})
    made = new_columns(nothing, pair.is_equal, names, columns_of(config), config.suffix)
    check_new_columns(pair.row, made, config.data.source)


def columns_of(config: ScorePairsConfig) -> str:
    """Which new columns there are."""
    if config.columns != "auto":
        return config.columns
    return "both" if len(config.rewards) > 1 else "sum"


def _scored(
    config: ScorePairsConfig, pairs: Sequence[PairToScore], journal: RowJournal
) -> list[PairScores | NotScored]:
    has_models = any("device" in type(reward).model_fields for reward in config.rewards)
    with ray_cluster(config.cluster) if has_models else contextlib.nullcontext():
        return asyncio.run(_score(config, pairs, journal, has_models))


async def _score(
    config: ScorePairsConfig, pairs: Sequence[PairToScore], journal: RowJournal, has_models: bool
) -> list[PairScores | NotScored]:
    encode = _encoder(config)
    with Progress(config.name, len(pairs), unit="pairs") as progress:
        async with _servers(config, has_models) as asks:
            return await score_all(
                pairs, config.rewards, config.repeats, asks, journal, encode, lambda done: progress.advance(done)
            )


@asynccontextmanager
async def _servers(config: ScorePairsConfig, has_models: bool) -> AsyncIterator[list[Ask]]:
    """In this process where no model is asked; else actors, one for each GPU."""
    if not has_models:
        here = RewardServer(config.rewards)
        try:
            yield [here.score]
        finally:
            await here.close()
        return
    import ray

    num_gpus = num_cluster_gpus()
    starting = [
        start_reward_server(config.rewards, config.cluster, num_gpus=min(1, num_gpus)) for _ in range(max(1, num_gpus))
    ]
    servers = await asyncio.gather(*starting)

    def asking(server: Any) -> Ask:
        async def ask(groups: Any) -> Any:
            return await server.score.remote(groups)

        return ask

    try:
        yield [asking(server) for server in servers]
    finally:
        for server in servers:
            ray.kill(server)


def _encoder(config: ScorePairsConfig) -> Callable[[str], Sequence[int]]:
    """Token ids of an answer; none without a model."""
    if config.model is None:
        return lambda text: ()
    from raylign.rollout.model_folder import load_tokenizer

    tokenizer: Any = load_tokenizer(config.model)
    return lambda text: list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _write(
    config: ScorePairsConfig, splits: Sequence[PairsOfSplit], scores: dict[str, PairScores | NotScored]
) -> dict[str, Any]:
    signs = {name: -1.0 if weight < 0 else 1.0 for name, weight in weights_by_name(config.rewards).items()}
    by_split: dict[str, list[ScoredRow]] = {}
    num_equal = 0
    for split in splits:
        rows = by_split.setdefault(split.split, [])
        for pair in split.pairs:
            found = scores[pair.row_id]
            if isinstance(found, NotScored):
                split.drop(pair.origin, found.reason, found.message)
                continue
            num_equal += pair.is_equal
            new = new_columns(found, pair.is_equal, signs, columns_of(config), config.suffix)
            rows.append(ScoredRow(pair.origin, pair.row, new))
    found_scores = [one for one in scores.values() if isinstance(one, PairScores)]
    if not found_scores:
        raise ValueError(f"{config.data.source}: none of {len(scores)} pairs could be scored: {_reasons(splits)}")
    is_split = config.data.split == ALL_SPLITS and bool(split_names(config.data.source, config.data.subset))
    written = write_scored(config.folder, config.data.source, by_split, is_split, config.data.delimiter)
    dropped = [line for split in splits for line in split.dropped]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in dropped)
    write_atomically(config.folder / "dropped.jsonl", text)
    summary = _summary(config, splits, by_split, found_scores, num_equal)
    write_atomically(config.folder / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    left_out = sum((split.left_out for split in splits), Counter())
    print(
        f"{summary['pairs']} pairs scored ({written[-1]}); chosen scores higher in "
        f"{summary['chosen_is_better_share']:.1%}"
        + (f"; left out: {', '.join(f'{count} {reason}' for reason, count in left_out.items())}" if left_out else "")
    )
    return summary


def _summary(
    config: ScorePairsConfig,
    splits: Sequence[PairsOfSplit],
    by_split: dict[str, list[ScoredRow]],
    scores: Sequence[PairScores],
    num_equal: int,
) -> dict[str, Any]:
    sums = [new_columns(one, False, {}, "sum", "") for one in scores]
    left_out: Counter[str] = sum((split.left_out for split in splits), Counter())
    return {
        "pairs": len(scores),
        "equal_pairs": num_equal,
        "failed": sum(bool(line["message"]) for split in splits for line in split.dropped),
        "left_out": dict(left_out),
        "chosen_is_better_share": _mean([float(one["chosen_score"] > one["rejected_score"]) for one in sums]),
        "bt_prob_mean": _mean([one["bt_prob"] for one in sums]),
        "repeats": config.repeats,
        "first_failures": [
            f"{line['split']}, row {line['row'] + 1}: {line['message']}"
            for split in splits
            for line in split.dropped
            if line["message"]
        ][:NUM_NAMED],
        "splits": {
            split.split: {"rows": split.num_rows, "pairs": len(by_split[split.split]), "left_out": dict(split.left_out)}
            for split in splits
        },
    }


def _reasons(splits: Sequence[PairsOfSplit]) -> str:
    left_out: Counter[str] = sum((split.left_out for split in splits), Counter())
    words = next((line["message"] for split in splits for line in split.dropped if line["message"]), "")
    return ", ".join(f"{count} {reason}" for reason, count in left_out.items()) + (f"; {words}" if words else "")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
