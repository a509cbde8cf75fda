"""A model's answer to each prompt of a pool: drawn once, kept, and never drawn again; or read from a table.

Given a pool and a `GrpoDataConfig`; gives answers by the row's place in the source. Drawn answers lie in
`inference_outputs/<model>-<hash>/`; the hash is of everything that decides them: prompts, weights, sampling, seed.
"""

from __future__ import annotations

import asyncio
import csv
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raylign.actors.cluster import ray_cluster
from raylign.jobs.data.draw_log import DrawIdentity, DrawLog
from raylign.jobs.data.drawing import Drawing, DrawReport, draw
from raylign.jobs.data.grpo_config import GrpoDataConfig
from raylign.jobs.data.policy_identity import policy_identity
from raylign.jobs.data.pool import Pool, PoolRow, file_safe
from raylign.jobs.data.row_journal import key_of
from raylign.jobs.run.checkpoints import model_folder
from raylign.jobs.run.folder import write_atomically
from raylign.jobs.run.output_folder import hold
from raylign.rollout.data.encoding import EncodedTexts, render_prompts
from raylign.rollout.data.mapping import MappedRow, row_name
from raylign.rollout.data.sources import Reading, read_file
from raylign.rollout.model_folder import load_tokenizer
from raylign.rollout.sample import Prompt

CSV_COLUMNS = ("id", "source", "prompt", "response")
"""Of the published tables of answers."""


@dataclass(frozen=True)
class PoolAnswer:
    """What the model said, stripped."""

    text: str
    num_tokens: int | None = None
    """None where a table does not say it."""
    finished: bool = True
    """False where it was cut at the token limit; it is scored all the same, as in the published code."""


@dataclass
class PoolAnswers:
    """By the row's place in the source."""

    answers: dict[int, PoolAnswer] = field(default_factory=dict)
    why_missing: dict[int, str] = field(default_factory=dict)
    report: DrawReport = field(default_factory=DrawReport)
    kept_in: str = ""


def answers_identity(config: GrpoDataConfig, pool: Pool) -> dict[str, Any]:
    """Everything that decides the answers."""
    if config.answers_csv is not None:
        return {"answers_csv": key_of(_readable(config.answers_csv).read_text("utf-8", "replace"))}
    assert config.model is not None
    return {
        "policy": policy_identity(model_folder(config.model)),
        "prompts": pool.prompts_digest,
        "sampling": config.sampling.model_dump(),
        "seed": config.seed,
        "deterministic": config.deterministic,
        "dtype": config.engine.dtype,
    }


def model_name(config: GrpoDataConfig) -> str:
    """For names of files: the last part of the model's path, of a checkpoint with its run's."""
    if config.model is None:
        assert config.answers_csv is not None
        return file_safe(config.answers_csv.name.split(".")[0].removesuffix("_inference_results"))
    path = Path(config.model)
    if path.parent.name == "checkpoints":
        return file_safe(f"{path.parent.parent.name}-{path.name}")
    return file_safe(path.name)


def pool_prompts(config: GrpoDataConfig, pool: Pool, model_path: str) -> tuple[list[Prompt], dict[int, str]]:
    """Prompts as they are fed, and the rows that are too long."""
    tokenizer = load_tokenizer(model_path)
    mapped = [
        MappedRow(row.index, [{"role": "user", "content": row.prompt}], row.references, None, {}) for row in pool.rows
    ]
    texts = EncodedTexts(tokenizer, render_prompts(tokenizer, mapped, config.data.as_data()))
    room = config.engine.max_model_len - config.inference_max_new_tokens
    least = texts.least_lengths(room)
    prompts: list[Prompt] = []
    too_long: dict[int, str] = {}
    short = [place for place in range(len(mapped)) if least[place] <= room]
    encoded = dict(zip(short, texts.batch(short), strict=True))
    for place, row in enumerate(pool.rows):
        token_ids = encoded.get(place)
        if token_ids is None or len(token_ids) > room:
            too_long[row.index] = f"the prompt has more than {room} tokens"
            continue
        prompts.append(
            Prompt(
                f"{pool.prompts_digest[:8]}-{row.index}",
                row.index,
                texts.texts[place],
                token_ids,
                fingerprint=pool.prompts_digest,
            )
        )
    if not prompts:
        raise ValueError(
            f"{config.data.source}: every prompt has more than {room} tokens; raise engine.max_model_len, or lower "
            "inference_max_new_tokens"
        )
    return prompts, too_long


@contextmanager
def answer_folder(config: GrpoDataConfig, pool: Pool) -> Iterator[Path]:
    """Held against other processes while the block runs."""
    identity = answers_identity(config, pool)
    folder = config.output_dir / "inference_outputs" / f"{model_name(config)}-{key_of(identity)[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    with hold(folder):
        write_atomically(folder / "identity.json", json.dumps(identity, indent=2) + "\n")
        yield folder


def drawn_answers(config: GrpoDataConfig, pool: Pool) -> PoolAnswers:
    """Draw what is missing; the rest is there already."""
    assert config.model is not None
    model_path = model_folder(config.model)
    prompts, too_long = pool_prompts(config, pool, model_path)
    found = PoolAnswers(why_missing=dict(too_long))
    with answer_folder(config, pool) as folder:
        found.kept_in = str(folder)
        identity = DrawIdentity(policy_identity(model_path), pool.prompts_digest, 1)
        with DrawLog(folder / "draws.jsonl", identity) as log:
            if any(prompt.ordinal not in log.drawn for prompt in prompts):
                with ray_cluster(config.cluster):
                    drawing = Drawing.of(config, "answers", model_path, config.sampling)
                    asyncio.run(draw(drawing, prompts, log, found.report))
            for prompt in prompts:
                if drawn := log.drawn.get(prompt.ordinal):
                    answer = drawn.answers[0]
                    found.answers[prompt.ordinal] = PoolAnswer(
                        answer.text.strip(), len(answer.token_ids), answer.finished
                    )
                else:
                    found.why_missing[prompt.ordinal] = found.report.failed.get(prompt.prompt_id, "not answered")
        write_csv(folder / "inference_results.csv", pool, found.answers)
    return found


def read_answers(config: GrpoDataConfig, pool: Pool) -> PoolAnswers:
    """Answers of a table in the published layout, by id; a row that it lacks is missing, another prompt an error."""
    path = config.answers_csv
    assert path is not None
    # found in the first lines it could be another: answers hold every character
    delimiter = "," if path.name.lower().endswith((".csv", ".csv.gz")) else None
    table: dict[str, Mapping[str, Any]] = {}
    for number, line in enumerate(read_file(_readable(path), Reading(delimiter=delimiter)).rows):
        if missing := [column for column in ("id", "prompt", "response") if column not in line]:
            raise ValueError(f"{path}: no column {', '.join(missing)}; a table of answers has {', '.join(CSV_COLUMNS)}")
        if str(line["id"]) in table:
            raise ValueError(f"{path}, {row_name(number)}: id {line['id']} stands there twice; remove one of them")
        table[str(line["id"])] = line
    found = PoolAnswers(kept_in=str(path))
    for row in _with_own_ids(pool, path):
        answered = table.get(str(row.id))
        if answered is None:
            found.why_missing[row.index] = f"id {row.id} is not in {path}"
        elif str(answered["prompt"]).split() != row.prompt.split():
            raise ValueError(
                f"{path}: id {row.id} answers {str(answered['prompt'])[:60]!r}, and the pool asks {row.prompt[:60]!r}: "
                "the table belongs to other data"
            )
        else:
            found.answers[row.index] = PoolAnswer(str(answered["response"] or "").strip())
    if not found.answers:
        raise ValueError(f"{path}: none of its {len(table)} ids is in {config.data.source}")
    return found


def write_csv(path: Path, pool: Pool, answers: Mapping[int, PoolAnswer]) -> None:
    """The answers in the published layout."""
    temporary = path.with_name(f".tmp-{path.name}")
    with temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(CSV_COLUMNS)
        for row in pool.rows:
            if row.index in answers:
                writer.writerow([row.id, row.source, row.prompt, answers[row.index].text])
    temporary.replace(path)


def _with_own_ids(pool: Pool, path: Path) -> list[PoolRow]:
    seen: set[str] = set()
    for row in pool.rows:
        if str(row.id) in seen:
            raise ValueError(f"{path}: id {row.id} stands in the pool twice, so a table by id cannot tell them apart")
        seen.add(str(row.id))
    return pool.rows


def _readable(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"answers_csv: {path.absolute()} is not there")
    return path
