"""`raylign data best-of-n`: preference data from the best and the worst of n answers, for several n from one draw.

Given a `BestOfNConfig`; gives a folder:

    draws.jsonl          every answer with its scores, a line for each prompt, written as they finish
    best_of_<n>.jsonl    prompt, chosen, rejected, sft_target, n, scores, … : what bonbon, dpo and ipo train on
    summary.json         pairs, ties dropped, mean scores, tokens, seconds; prompts that failed, by name
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raylign.jobs.checks.draw import examine_drawing
from raylign.jobs.checks.findings import Findings
from raylign.jobs.checks.machine import Machine, this_machine
from raylign.jobs.config.references import compare_with_references
from raylign.jobs.data.best_of_n_config import BestOfNConfig
from raylign.jobs.data.draw_log import DrawIdentity, DrawLog
from raylign.jobs.data.drawing import Drawing, DrawReport, draw_and_write
from raylign.jobs.data.job_folder import check_job_folder, job_folder
from raylign.jobs.data.policy_identity import policy_identity
from raylign.jobs.run.checkpoints import model_folder
from raylign.jobs.run.folder import write_atomically
from raylign.learners.losses.best_of_n_theory import best_of_n_beta, best_of_n_kl, best_of_n_win_rate
from raylign.rollout.best_worst import DROP_REASONS, AnswerSet, original_lines, preference_row
from raylign.rollout.data.prompts import PromptSource
from raylign.rollout.model_folder import load_tokenizer
from raylign.rollout.sample import Prompt

MAY_CHANGE_ON_RESUME = ("best_of", "num_prompts", "num_engines", "answer_deadline_s", "original_format")
"""None of them changes an answer. The largest n may not change either: the raw file says how many were drawn."""


def best_of_n(config: BestOfNConfig) -> dict[str, Any]:
    """Check, draw what is missing, choose best and worst, report."""
    examine_best_of_n(config, this_machine()).raise_problems()
    with job_folder(config.folder, config, config.resume, MAY_CHANGE_ON_RESUME):
        model_path = model_folder(config.model)
        prompts, fingerprint = open_prompts(config, model_path)
        identity = DrawIdentity(policy_identity(model_path), fingerprint, max(config.best_of))
        with DrawLog(config.folder / "draws.jsonl", identity) as log:
            drawing = drawing_of(config, model_path)
            return draw_and_write(drawing, prompts, log, lambda report: write_results(config, prompts, log, report))


def examine_best_of_n(config: BestOfNConfig, machine: Machine) -> Findings:
    """All checks before a start."""
    findings = examine_drawing(
        config.model,
        config.data,
        config.sampling.of(max(config.best_of)),
        config.rewards,
        config.seed,
        config.engine,
        config.num_engines,
        config.cluster,
        config.folder,
        machine,
    )
    findings.attempt("folder", lambda: check_job_folder(config.folder, config, config.resume, MAY_CHANGE_ON_RESUME))
    return findings


def open_prompts(config: BestOfNConfig, model_path: str) -> tuple[list[Prompt], str]:
    """The prompts in their order, and the fingerprint of the data."""
    room = config.engine.max_model_len - config.sampling.max_tokens
    compares = compare_with_references(config.rewards)
    source = PromptSource.open(config.data, load_tokenizer(model_path), config.seed, room, needs_references=compares)
    return source.take(0, min(config.num_prompts or len(source), len(source))), source.fingerprint


def drawing_of(config: BestOfNConfig, model_path: str) -> Drawing:
    """What the pool is asked for."""
    return Drawing.of(config, config.name, model_path, config.sampling.of(max(config.best_of)), config.rewards)


def write_results(config: BestOfNConfig, prompts: Sequence[Prompt], log: DrawLog, report: DrawReport) -> dict[str, Any]:
    """A file for each n and the summary, in the order of the prompts."""
    drawn = [log.drawn[prompt.ordinal] for prompt in prompts if prompt.ordinal in log.drawn]
    if not drawn:
        why = next(iter(report.failed.values()), "no reason was given")
        raise ValueError(f"not one of {len(prompts)} prompts was answered; the first failure: {why}")
    best_of = {str(n): _write_pairs(config, drawn, n) for n in config.best_of}
    lengths = [len(answer.token_ids) for answers in drawn for answer in answers.answers]
    cut = [not answer.finished for answers in drawn for answer in answers.answers]
    summary: dict[str, Any] = {
        "policy": log.identity.policy,
        "seed": config.seed,
        "num_prompts": len(prompts),
        "num_answered": len(drawn),
        "failed_prompts": report.failed,
        "num_answers": len(lengths),
        "mean_score": _mean([score for answers in drawn for score in answers.scores if score is not None]),
        "mean_tokens": _mean(lengths),
        "truncated_share": _mean(cut),
        "num_tokens": sum(lengths),
        "best_of": best_of,
        "this_session": {
            "num_prompts": report.num_prompts,
            "num_tokens": report.num_tokens,
            "seconds": report.seconds,
            "tokens_per_s": report.num_tokens / report.seconds if report.seconds else None,
        },
    }
    write_atomically(config.folder / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    _print(summary, config.folder)
    return summary


def _write_pairs(config: BestOfNConfig, drawn: Sequence[AnswerSet], n: int) -> dict[str, Any]:
    """One file; gives its part of the summary."""
    found = [preference_row(answers, n) for answers in drawn]
    rows = [row for row in found if not isinstance(row, str)]
    dropped = Counter(row for row in found if isinstance(row, str))
    path = config.folder / f"best_of_{n}.jsonl"
    write_atomically(path, _lines(rows))
    if config.original_format:
        original = config.folder / f"best-of-{n}" / f"bon_maxlen_{config.sampling.max_tokens}.jsonl"
        original.parent.mkdir(exist_ok=True)
        write_atomically(original, _lines(original_lines(rows)))
    return {
        "file": path.name,
        "num_pairs": len(rows),
        "dropped": {reason: dropped[reason] for reason in DROP_REASONS},
        "mean_chosen_score": _mean([row["chosen_score"] for row in rows]),
        "mean_rejected_score": _mean([row["rejected_score"] for row in rows]),
        "in_theory": {"beta": best_of_n_beta(n), "kl": best_of_n_kl(n), "win_rate": best_of_n_win_rate(n)},
    }


def _lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _print(summary: Mapping[str, Any], folder: Path) -> None:
    print(f"{summary['num_answered']} of {summary['num_prompts']} prompts answered, {summary['num_answers']} answers")
    for prompt_id, why in summary["failed_prompts"].items():
        print(f"  prompt {prompt_id} failed, --resume tries it again: {why}")
    for n, part in summary["best_of"].items():
        dropped = ", ".join(f"{count} {reason}" for reason, count in part["dropped"].items() if count) or "none"
        means = ", ".join(
            f"{side} {value:.4g}"
            for side, value in (("best", part["mean_chosen_score"]), ("worst", part["mean_rejected_score"]))
            if value is not None
        )
        print(
            f"best of {n}: {part['num_pairs']} pairs ({folder / part['file']}); mean score: {means}; dropped: {dropped}"
        )
