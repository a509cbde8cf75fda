"""`raylign sample`: answers of a model or checkpoint to any prompts, without a reward.

Given a `SampleConfig`; gives a folder:

    draws.jsonl      all answers to a prompt on a line, with their token ids, written as they finish
    answers.jsonl    one answer a line (prompt, response, …), in the order of the prompts
    summary.json     prompts, answers, lengths, seconds; prompts that failed, by name

`raylign compare` reads both files of answers; `data.source` reads answers.jsonl.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from raylign.jobs.checks.draw import examine_drawing
from raylign.jobs.checks.findings import Findings
from raylign.jobs.checks.machine import Machine, this_machine
from raylign.jobs.data.draw_log import DrawIdentity, DrawLog
from raylign.jobs.data.drawing import Drawing, DrawReport, draw_and_write
from raylign.jobs.data.job_folder import check_job_folder, job_folder
from raylign.jobs.data.policy_identity import policy_identity
from raylign.jobs.run.checkpoints import model_folder
from raylign.jobs.run.folder import write_atomically
from raylign.jobs.sample.config import SampleConfig
from raylign.rollout.best_worst import AnswerSet
from raylign.rollout.data.prompts import PromptSource
from raylign.rollout.model_folder import load_tokenizer
from raylign.rollout.sample import Prompt

MAY_CHANGE_ON_RESUME = ("num_prompts", "num_engines", "answer_deadline_s")
"""None of them changes an answer."""


def sample(config: SampleConfig) -> dict[str, Any]:
    """Check, answer what is not answered yet, write the answers."""
    examine_sample(config, this_machine()).raise_problems()
    with job_folder(config.folder, config, config.resume, MAY_CHANGE_ON_RESUME):
        model_path = model_folder(config.model)
        prompts, fingerprint = open_prompts(config, model_path)
        identity = DrawIdentity(policy_identity(model_path), fingerprint, config.num_completions)
        with DrawLog(config.folder / "draws.jsonl", identity) as log:
            drawing = drawing_of(config, model_path)
            return draw_and_write(drawing, prompts, log, lambda report: write_results(config, prompts, log, report))


def examine_sample(config: SampleConfig, machine: Machine) -> Findings:
    """All checks before a start."""
    findings = examine_drawing(
        config.model,
        config.data,
        config.sampling.of(config.num_completions),
        [],
        config.seed,
        config.engine,
        config.num_engines,
        config.cluster,
        config.folder,
        machine,
    )
    findings.attempt("folder", lambda: check_job_folder(config.folder, config, config.resume, MAY_CHANGE_ON_RESUME))
    return findings


def open_prompts(config: SampleConfig, model_path: str) -> tuple[list[Prompt], str]:
    """The prompts in their order, and the fingerprint of the data."""
    room = config.engine.max_model_len - config.sampling.max_tokens
    source = PromptSource.open(config.data, load_tokenizer(model_path), config.seed, room)
    return source.take(0, min(config.num_prompts or len(source), len(source))), source.fingerprint


def drawing_of(config: SampleConfig, model_path: str) -> Drawing:
    """What the pool is asked for."""
    return Drawing.of(config, config.name, model_path, config.sampling.of(config.num_completions))


def answer_rows(drawn: AnswerSet, as_chat: bool) -> Iterator[dict[str, Any]]:
    """A row for each answer. `as_chat`: with the whole chat, which `data` finds and renders in its own way; `prompt`
    is the rendered text, which a second rendering would wrap once more."""
    for index, answer in enumerate(drawn.answers):
        said = [*(dict(message) for message in drawn.messages), {"role": "assistant", "content": answer.text}]
        yield {
            "prompt": drawn.prompt,
            "response": answer.text,
            **({"messages": said} if as_chat else {}),
            "references": list(drawn.references),
            "num_tokens": len(answer.token_ids),
            "finished": answer.finished,
            "index": index,
            "prompt_id": drawn.prompt_id,
            "ordinal": drawn.ordinal,
            "policy": drawn.policy,
            "seed": drawn.seed,
            "row": dict(drawn.row),
        }


def write_results(config: SampleConfig, prompts: Sequence[Prompt], log: DrawLog, report: DrawReport) -> dict[str, Any]:
    """Answers and summary, in the order of the prompts."""
    drawn = [log.drawn[prompt.ordinal] for prompt in prompts if prompt.ordinal in log.drawn]
    if not drawn:
        why = next(iter(report.failed.values()), "no reason was given")
        raise ValueError(f"not one of {len(prompts)} prompts was answered; the first failure: {why}")
    rows = [row for answers in drawn for row in answer_rows(answers, config.data.template == "chat")]
    path = config.folder / "answers.jsonl"
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows))
    summary = {
        "model": config.model,
        "policy": log.identity.policy,
        "seed": config.seed,
        "num_prompts": len(prompts),
        "num_answered": len(drawn),
        "failed_prompts": report.failed,
        "num_answers": len(rows),
        "mean_tokens": sum(row["num_tokens"] for row in rows) / len(rows),
        "truncated_share": sum(not row["finished"] for row in rows) / len(rows),
        "this_session": {
            "num_prompts": report.num_prompts,
            "num_tokens": report.num_tokens,
            "seconds": report.seconds,
            "tokens_per_s": report.num_tokens / report.seconds if report.seconds else None,
        },
    }
    write_atomically(config.folder / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    print(f"{len(drawn)} of {len(prompts)} prompts answered, {len(rows)} answers: {path}")
    for prompt_id, why in report.failed.items():
        print(f"  prompt {prompt_id} failed, --resume tries it again: {why}")
    return summary
