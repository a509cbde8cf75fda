"""`raylign compare`: the win rate of a new model against a reference, by rewards, by a judge, or both.

Given a `CompareConfig`; gives a folder:

    comparison.json     win rates with ties and intervals, lengths, KL(new‖reference), what failed
    comparison.jsonl    both answers to every prompt, with scores, verdicts and who won
    comparison.html     win rate against KL and against length, beside the theory and earlier comparisons
    draws_<side>.jsonl  of a side that is a model: its answers, written as they come
"""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from raylign.actors.cluster import ray_cluster
from raylign.jobs.checks.draw import examine_drawing
from raylign.jobs.checks.findings import Findings
from raylign.jobs.checks.machine import Machine, this_machine
from raylign.jobs.compare.answer_files import SingleAnswer, read_answers
from raylign.jobs.compare.charts import points_of_folder, write_comparison_page
from raylign.jobs.compare.config import CompareConfig
from raylign.jobs.compare.kl import kl_of_sides
from raylign.jobs.compare.sides import Side, gather_sides
from raylign.jobs.compare.win_rate import win_rate, winner
from raylign.jobs.data.job_folder import check_job_folder, job_folder
from raylign.jobs.run.folder import write_atomically
from raylign.jobs.run.progress import Progress
from raylign.rewards.judge.config import JudgeConfig
from raylign.rewards.judge.judge import AnswerPair, Judge, JudgeFailure, Verdict

MAY_CHANGE_ON_RESUME = ("num_prompts", "num_engines", "answer_deadline_s", "judge", "kl", "shown_with")
"""None of them changes an answer or its score."""
Judged = Verdict | JudgeFailure | None
"""None: nobody was asked, since the two answers are the same or one is missing."""


def compare(config: CompareConfig) -> dict[str, Any]:
    """Check, gather both sides, decide, report."""
    examine_compare(config, this_machine()).raise_problems()
    has_models = any(side.model is not None for side in config.sides.values())
    with job_folder(config.folder, config, config.resume, MAY_CHANGE_ON_RESUME):
        with ray_cluster(config.cluster) if has_models else contextlib.nullcontext():
            sides = gather_sides(config)
            kl = kl_of_sides(sides, config.sampling.temperature, config.answer_deadline_s) if config.kl else None
        pairs = list(zip(sides["new"].answers, sides["reference"].answers, strict=True))
        judged = _judged(config.judge, pairs) if config.judge else None
        found = {
            **{key: _facts(side) for key, side in sides.items()},
            "num_prompts": len(pairs),
            "by_reward": _by_reward(pairs) if config.rewards else None,
            "by_judge": _by_judge(pairs, judged) if judged is not None else None,
            "kl": kl,
        }
        _write(config, found, pairs, judged)
        _print(config, found)
    _check_anything_decided(found)
    return found


def examine_compare(config: CompareConfig, machine: Machine) -> Findings:
    """All checks before a start: both sides, the judge's key, the folder."""
    findings = Findings()
    for key, side in config.sides.items():
        if side.answers is not None:
            findings.attempt(f"{key}.answers", partial(read_answers, side.answers, side.best_of))
        elif side.model is not None:
            of_model = examine_drawing(
                side.model,
                config.data,
                config.sampling.of_one(),
                config.rewards,
                config.seed,
                config.engine,
                config.num_engines,
                config.cluster,
                config.folder,
                machine,
            )
            findings.facts += of_model.facts
            findings.problems += [problem for problem in of_model.problems if problem not in findings.problems]
    if config.judge is not None:
        findings.attempt("judge", partial(Judge, config.judge))
    for folder in config.shown_with:
        findings.attempt("shown_with", partial(points_of_folder, folder))
    findings.attempt("folder", partial(check_job_folder, config.folder, config, config.resume, MAY_CHANGE_ON_RESUME))
    return findings


Pair = tuple[SingleAnswer | None, SingleAnswer | None]


def _by_reward(pairs: Sequence[Pair]) -> dict[str, Any]:
    scores = [_reward_scores(*pair) for pair in pairs]
    means = {f"mean_score_{key}": _mean([one[side] for one in scores]) for side, key in enumerate(("new", "reference"))}
    return win_rate([new for new, _ in scores], [reference for _, reference in scores]).row() | means


def _reward_scores(new: SingleAnswer | None, reference: SingleAnswer | None) -> tuple[float | None, float | None]:
    """Equal texts are a tie: a reward model scores them apart by the last bits, as they lay in its batches."""
    first, second = (None if answer is None else answer.score for answer in (new, reference))
    if new is not None and reference is not None and new.text == reference.text and first is not None:
        second = None if second is None else first
    return first, second


def _judged(config: JudgeConfig, pairs: Sequence[Pair]) -> list[Judged]:
    """A verdict for each pair of two different answers."""
    asked = {
        place: AnswerPair(_request(new), new.text, reference.text)
        for place, (new, reference) in enumerate(pairs)
        if new is not None and reference is not None and new.text != reference.text
    }
    with Progress("judge", len(asked), unit="pairs") as progress:
        verdicts = Judge(config).compare(list(asked.values()), progress.advance)
    found: dict[int, Judged] = dict(zip(asked, verdicts, strict=True))
    return [found.get(place) for place in range(len(pairs))]


def _request(answer: SingleAnswer) -> str:
    """What was asked, without the marks of a chat template."""
    if len(answer.messages) == 1:
        return answer.messages[0]["content"]
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in answer.messages) or answer.prompt


def _judge_scores(pair: Pair, judged: Judged) -> tuple[float | None, float | None]:
    """Two equal answers are a tie without a judge; a failure is none."""
    if isinstance(judged, Verdict):
        return judged.score_a, judged.score_b
    new, reference = pair
    return (0.0, 0.0) if judged is None and new is not None and reference is not None else (None, None)


def _by_judge(pairs: Sequence[Pair], judged: Sequence[Judged]) -> dict[str, Any]:
    scores = [_judge_scores(pair, one) for pair, one in zip(pairs, judged, strict=True)]
    failures = [one for one in judged if isinstance(one, JudgeFailure)]
    return win_rate([new for new, _ in scores], [reference for _, reference in scores]).row() | {
        "failures": dict(Counter(failure.kind for failure in failures)),
        "first_failure": failures[0].message if failures else None,
        "num_asked": sum(one is not None for one in judged),
        "num_from_cache": sum(isinstance(one, Verdict) and one.from_cache for one in judged),
    }


def _facts(side: Side) -> dict[str, Any]:
    """Lengths tell whether a win was bought with words."""
    said = [answer for answer in side.answers if answer is not None]
    tokens = [answer.num_tokens for answer in said if answer.num_tokens is not None]
    return {
        "label": side.label,
        "num_answers": len(said),
        "mean_tokens": _mean(tokens) if len(tokens) == len(said) else None,
        "mean_characters": _mean([len(answer.text) for answer in said]),
        "truncated_share": _mean([float(not answer.finished) for answer in said]),
        "num_failures": len(side.failures),
        "first_failures": list(side.failures[:3]),
    }


def _write(config: CompareConfig, found: dict[str, Any], pairs: Sequence[Pair], judged: list[Judged] | None) -> None:
    lines = [
        json.dumps(_line(pair, judged[place] if judged else None), ensure_ascii=False)
        for place, pair in enumerate(pairs)
    ]
    write_atomically(config.folder / "comparison.jsonl", "".join(line + "\n" for line in lines))
    write_atomically(config.folder / "comparison.json", json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    write_comparison_page(config.folder / "comparison.html", config.name, [config.folder, *config.shown_with])


def _line(pair: Pair, judged: Judged) -> dict[str, Any]:
    new, reference = pair
    any_side = new or reference
    line: dict[str, Any] = {
        "prompt": any_side.prompt if any_side else None,
        "new": new.text if new else None,
        "reference": reference.text if reference else None,
        "new_score": new.score if new else None,
        "reference_score": reference.score if reference else None,
        "winner": winner(*_reward_scores(*pair)),
    }
    if isinstance(judged, Verdict):
        line["judge"] = {
            "new_score": judged.score_a,
            "reference_score": judged.score_b,
            "winner": winner(judged.score_a, judged.score_b),
            "reference_was_first": judged.b_was_first,
            "reply": judged.reply,
        }
    elif isinstance(judged, JudgeFailure):
        line["judge"] = {"failure": judged.kind, "message": judged.message}
    return line


def _print(config: CompareConfig, found: dict[str, Any]) -> None:
    for key in ("new", "reference"):
        facts = found[key]
        tokens = "" if facts["mean_tokens"] is None else f", {facts['mean_tokens']:.1f} tokens"
        length = "" if facts["mean_characters"] is None else f", {facts['mean_characters']:.0f} characters{tokens}"
        print(f"{key}: {facts['label']}: {facts['num_answers']} answers{length}")
        if facts["num_failures"]:
            print(f"  {facts['num_failures']} failures, the first: {facts['first_failures'][0]}")
    for by in ("reward", "judge"):
        rates = found[f"by_{by}"]
        if rates is None or rates["win_rate"] is None:
            continue
        parts = ", ".join(f"{name} {rates[f'{name}_share']:.1%}" for name in ("win", "tie", "loss"))
        interval = f"[{rates['win_rate_low']:.1%}, {rates['win_rate_high']:.1%}]"
        print(
            f"by {by}: {parts}; win rate, ties half, {rates['win_rate']:.1%} {interval}; "
            f"{rates['num_failed']} of {found['num_prompts']} not decided"
        )
    if found["kl"]:
        print(f"KL(new‖reference): {found['kl']['mean']:.4g} ± {found['kl']['standard_error']:.2g} nats per answer")
    print(f"all of it: {config.folder / 'comparison.html'}, {config.folder / 'comparison.jsonl'}")


def _check_anything_decided(found: dict[str, Any]) -> None:
    """A comparison that decided nothing must not pass for one."""
    for by in ("reward", "judge"):
        rates = found[f"by_{by}"]
        if rates is not None and rates["win_rate"] is None:
            failures = [*found["new"]["first_failures"], *found["reference"]["first_failures"]]
            why = rates.get("first_failure") or next(iter(failures), "no reason was given")
            raise ValueError(f"not one of {found['num_prompts']} pairs could be decided by the {by}; first: {why}")


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return math.fsum(present) / len(present) if present else None
