"""`raylign data grpo`: training rows chosen by how a model's answers score against references (BLEUBERI).

Given a `GrpoDataConfig`; gives, below `output_dir`:

    data_grpo/<name>/          the rows, with summary.json, dropped.jsonl, config.yaml and a histogram of the scores
    inference_outputs/…/       every answer, a line each, written as they finish
    scored_outputs/….jsonl     every score, by content

A run that is broken off goes on where it was when it is started again: answers and scores that are there are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raylign.jobs.checks.findings import Findings
from raylign.jobs.checks.machine import Machine, this_machine
from raylign.jobs.data.dropped import Dropped
from raylign.jobs.data.grpo_check import examine_grpo_data
from raylign.jobs.data.grpo_config import GrpoDataConfig
from raylign.jobs.data.hardness import select_at_random, select_by_score
from raylign.jobs.data.pool import Pool, PoolRow, data_name, read_pool, short_name
from raylign.jobs.data.pool_answers import PoolAnswers, answers_identity, drawn_answers, model_name, read_answers
from raylign.jobs.data.pool_scores import PoolScores, score_pool, scorer_identity, scorer_of
from raylign.jobs.data.pool_summary import by_source, counts, histogram, lengths, spread
from raylign.jobs.data.saved_data import is_there_already, save_data
from raylign.jobs.run.output_folder import hold


def grpo_data(config: GrpoDataConfig) -> Path:
    """Read, answer, score, choose, write; gives the folder."""
    findings, pool = _checked(config, this_machine())
    findings.raise_problems()
    assert pool is not None
    root = config.output_dir / "data_grpo"
    identity = identity_of(config, pool)
    if config.output_dataset_name is not None and is_there_already(root / config.output_dataset_name, identity):
        return _untouched(root / config.output_dataset_name)
    answers, scored = PoolAnswers(), PoolScores({}, {}, 0)
    rows = pool.rows
    if config.selection_mode != "random":
        answers = read_answers(config, pool) if config.answers_csv is not None else drawn_answers(config, pool)
        scored = score_pool(config, pool.rows, answers.answers)
        rows = [row for row in pool.rows if row.index in scored.scores]
        if not rows:
            first = next(iter([*scored.why_missing.values(), *answers.why_missing.values()]), "no reason was given")
            raise ValueError(f"{config.data.source}: not one row has a score; the first failure: {first}")
        places = select_by_score([scored.scores[row.index] for row in rows], config.selection_mode, config.num_examples)
    else:
        assert config.num_examples is not None
        places = select_at_random(len(rows), config.num_examples, config.seed)
    chosen = [rows[place] for place in places]
    path = root / (config.output_dataset_name or automatic_name(config, len(chosen)))
    root.mkdir(parents=True, exist_ok=True)
    with hold(root):
        if is_there_already(path, identity):
            return _untouched(path)
        _write(path, config, pool, chosen, answers, scored, identity)
    return path


def examine(config: GrpoDataConfig, machine: Machine) -> Findings:
    """All checks before a start."""
    return _checked(config, machine)[0]


def _checked(config: GrpoDataConfig, machine: Machine) -> tuple[Findings, Pool | None]:
    findings = Findings()
    pool = findings.attempt("data", lambda: read_pool(config))
    examine_grpo_data(config, pool, machine, findings)
    return findings, pool


def identity_of(config: GrpoDataConfig, pool: Pool) -> dict[str, Any]:
    """Everything that decides the rows."""
    identity: dict[str, Any] = {
        "data": pool.digest,
        "references": config.data.reference or ", ".join(config.references),
        "selection_mode": config.selection_mode,
        "num_examples": config.num_examples,
    }
    if config.selection_mode == "random":
        return identity | {"seed": config.seed}
    name, rewards = scorer_of(config)
    scorer = scorer_identity(rewards) or [reward.model_dump(mode="json") for reward in rewards]
    return identity | {"metric": name, "scorer": str(scorer), "answers": answers_identity(config, pool)}


def automatic_name(config: GrpoDataConfig, num_rows: int) -> str:
    """`<data>_<metric>_<model>_<n>ref-<names>_<mode>_<rows>`; without metric and model where rows are random."""
    scored = [] if config.selection_mode == "random" else [scorer_of(config)[0], model_name(config)]
    names = [short_name(name) for name in config.references]
    references = "refs" if config.data.reference is not None else f"{len(names)}ref-{'-'.join(names)}"
    return "_".join([data_name(config.data.source), *scored, references, config.selection_mode, str(num_rows)])


def _write(
    path: Path,
    config: GrpoDataConfig,
    pool: Pool,
    chosen: Sequence[PoolRow],
    answers: PoolAnswers,
    scored: PoolScores,
    identity: dict[str, Any],
) -> None:
    column = None if config.selection_mode == "random" else f"{scorer_of(config)[0]}_score"
    dropped = _dropped(pool, answers, scored)
    indexes = {row.index for row in chosen}
    scores = [scored.scores[row.index] for row in pool.rows if row.index in scored.scores]
    kept = [scored.scores[row.index] for row in chosen if row.index in scored.scores]
    report = answers.report
    summary: dict[str, Any] = {
        "identity": identity,
        **counts(pool, dropped, indexes),
        "num_examples": config.num_examples,
        "scores": spread(scores),
        "selected_scores": spread(kept),
        "by_source": by_source(pool.rows, scored.scores, indexes),
        "lengths": lengths(pool.rows, answers.answers, indexes),
        "answers": answers.kept_in,
        "num_cut_answers": sum(not answer.finished for answer in answers.answers.values()),
        "answers_are_the_same_again": config.deterministic or config.temperature == 0 or not answers.report.num_prompts,
        "this_session": {
            "num_answers": report.num_prompts,
            "num_tokens": report.num_tokens,
            "seconds": report.seconds,
            "num_scores_from_cache": scored.num_cached,
        },
    }
    pictures = {"scores.png": histogram(scores, kept, column.removesuffix("_score"))} if column and scores else {}
    rows = [_line(row, column, scored.scores) for row in chosen]
    save_data(path, rows, config, summary, [vars(each) for each in dropped], config.parquet, pictures)
    _print(path, summary, config)


def _line(row: PoolRow, column: str | None, scores: dict[int, float]) -> dict[str, Any]:
    line = {
        "id": row.id,
        "source": row.source,
        "messages": row.messages,
        "prompt": row.prompt,
        "ground_truth": row.ground_truth,
        "references": list(row.references),
    }
    return line if column is None else line | {column: scores[row.index]}


def _dropped(pool: Pool, answers: PoolAnswers, scored: PoolScores) -> list[Dropped]:
    by_index = {row.index: row for row in pool.rows}
    found = list(pool.dropped)
    for stage, why in (("answer", answers.why_missing), ("score", scored.why_missing)):
        found += [Dropped(by_index[index].id, stage, f"no {stage}", words) for index, words in why.items()]
    return found


def _untouched(path: Path) -> Path:
    print(f"{path} holds the same data set already: untouched")
    return path


def _print(path: Path, summary: dict[str, Any], config: GrpoDataConfig) -> None:
    wanted, found = config.num_examples, summary["rows_selected"]
    few = f"; num_examples is {wanted}, and there are no more" if wanted is not None and wanted > found else ""
    print(f"{found} of {summary['rows_read']} rows, {config.selection_mode} ({path}){few}")
    for reason, count in summary["rows_dropped"].items():
        print(f"  {count} dropped: {reason}")
    if (scores := summary["selected_scores"]) is not None:
        print(
            f"  their scores: {scores['min']:.4f} to {scores['max']:.4f}; of all rows: {summary['scores']['mean']:.4f}"
        )
    for source in summary["by_source"]:
        mean = "" if source["mean_score"] is None else f", mean score {source['mean_score']:.4f}"
        print(f"  {source['source'] or 'rows'}: {source['rows']}{mean}, {source['share_selected']:.1%} selected")
