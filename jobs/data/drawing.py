"""Drawing answers from a model through the rollout pool, each on disk as soon as it is scored.

Given a `Drawing` and prompts; gives the log filled with one `AnswerSet` for each prompt, and the prompts that failed
with the reason. Prompts that the log already holds are not drawn again.

    draw ── collect ──▶ pool ── scored groups, as they finish ──▶ log

`draw` waits for the pool only, whose every wait has a deadline.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from raylign.actors.cluster import ClusterConfig, ray_cluster
from raylign.actors.rollout_pool import RolloutPool
from raylign.jobs.data.draw_log import DrawLog
from raylign.jobs.run.engine_shares import engine_seed
from raylign.jobs.run.progress import Progress
from raylign.jobs.run.roles import cpus_for_each_role, start_pool
from raylign.rewards.registry import AnyRewardConfig
from raylign.rollout.best_worst import Answer, AnswerSet
from raylign.rollout.engine.config import EngineConfig
from raylign.rollout.engine.output_check import why_refused
from raylign.rollout.sample import FloatArray, Group, Prompt
from raylign.rollout.sampling import SamplingConfig

PROMPTS_AT_ONCE = 2048
"""Handed to the engines together: enough that waiting for the last of them costs nothing, few enough for memory."""


class DrawingJob(Protocol):
    """The keys that the config of every job has which draws."""

    seed: int
    deterministic: bool
    engine: EngineConfig
    num_engines: int
    cluster: ClusterConfig
    answer_deadline_s: float


@dataclass(frozen=True)
class Drawing:
    """What is drawn, and with what."""

    title: str
    model_path: str
    sampling: SamplingConfig
    rewards: Sequence[AnyRewardConfig]
    """Empty: answers are kept without scores."""
    seed: int
    deterministic: bool
    """A seed for every answer: the same answers again, however often the job was interrupted."""
    engine: EngineConfig
    num_engines: int
    cluster: ClusterConfig
    answer_deadline_s: float

    @classmethod
    def of(
        cls,
        job: DrawingJob,
        title: str,
        model_path: str,
        sampling: SamplingConfig,
        rewards: Sequence[AnyRewardConfig] = (),
    ) -> Self:
        """With the job's engines, seed and deadline."""
        return cls(
            title=title,
            model_path=model_path,
            sampling=sampling,
            rewards=rewards,
            seed=job.seed,
            deterministic=job.deterministic,
            engine=job.engine,
            num_engines=job.num_engines,
            cluster=job.cluster,
            answer_deadline_s=job.answer_deadline_s,
        )


@dataclass
class DrawReport:
    """What one call of `draw` did; filled as it goes, so that it tells of a draw that broke off too."""

    failed: dict[str, str] = field(default_factory=dict)
    """Why, by the id of the prompt."""
    num_prompts: int = 0
    num_tokens: int = 0
    seconds: float = 0.0
    """Generating and scoring, without the start of the engines."""


def draw_and_write(
    drawing: Drawing, prompts: Sequence[Prompt], log: DrawLog, write: Callable[[DrawReport], dict[str, Any]]
) -> dict[str, Any]:
    """`draw` on a cluster of its own, then the results; those of a draw that broke off are written too."""
    report = DrawReport()
    try:
        if any(prompt.ordinal not in log.drawn for prompt in prompts):
            with ray_cluster(drawing.cluster):
                asyncio.run(draw(drawing, prompts, log, report))
    except BaseException:
        if log.drawn:
            # of no use to throw away what is there: a prompt that no engine can answer would block the rest
            write(report)
            print(f"the draw broke off; its answers are kept in {log.path}: go on with --resume")
        raise
    return write(report)


async def draw(drawing: Drawing, prompts: Sequence[Prompt], log: DrawLog, report: DrawReport) -> None:
    """Start engines, draw what is missing, stop them."""
    missing = [prompt for prompt in prompts if prompt.ordinal not in log.drawn]
    if not missing:
        return
    pool = None
    with Progress(drawing.title, len(prompts), unit="prompts", start=len(prompts) - len(missing)) as progress:
        try:
            with progress.waiting("starting the engines"):
                pool = await start_pool(
                    drawing.model_path,
                    drawing.engine,
                    drawing.num_engines,
                    drawing.rewards,
                    weight_backend=None,
                    weight_version=0,
                    seed=_pool_seed(drawing, len(log.drawn)),
                    cpus=cpus_for_each_role(drawing.num_engines),
                    cluster=drawing.cluster,
                    answer_deadline_s=drawing.answer_deadline_s,
                )
            await draw_missing(drawing, pool, missing, log, report, progress)
        finally:
            if pool is not None:
                await pool.stop()


async def draw_missing(
    drawing: Drawing,
    pool: RolloutPool,
    missing: Sequence[Prompt],
    log: DrawLog,
    report: DrawReport,
    progress: Progress | None = None,
) -> None:
    """Through a pool that runs."""
    start = time.perf_counter()
    num_done_before = len(log.drawn)
    for first in range(0, len(missing), PROMPTS_AT_ONCE):
        part = missing[first : first + PROMPTS_AT_ONCE]
        async for group in pool.collect(part, drawing.sampling, ordered=drawing.deterministic):
            if why := _why_failed(group, drawing.sampling):
                report.failed[group.prompt.prompt_id] = why
            else:
                log.append(answer_set(group, log.identity.policy, drawing.seed, with_scores=bool(drawing.rewards)))
                report.num_prompts += 1
                report.num_tokens += group.num_tokens
            report.seconds = time.perf_counter() - start
            if progress is not None:
                rate = report.num_tokens / report.seconds
                done = num_done_before + report.num_prompts + len(report.failed)
                progress.advance(done, {"rollout/tokens_per_s": rate})


def answer_set(group: Group, policy: str, seed: int, with_scores: bool = True) -> AnswerSet:
    """A scored group as a line of the raw file."""
    prompt, count = group.prompt, len(group.completions)
    unscored: tuple[float | None, ...] = (None,) * count
    has_scores = with_scores and group.total_rewards is not None
    return AnswerSet(
        ordinal=prompt.ordinal,
        prompt_id=prompt.prompt_id,
        prompt=prompt.text,
        answers=tuple(
            Answer(completion.text, tuple(completion.token_ids.tolist()), completion.stop_reason == "stop")
            for completion in group.completions
        ),
        scores=_numbers(group.total_rewards) if has_scores else unscored,
        rewards={name: _numbers(rewards_G) for name, rewards_G in group.rewards.items()} if has_scores else {},
        policy=policy,
        seed=seed,
        fingerprint=prompt.fingerprint,
        references=prompt.references,
        messages=prompt.messages,
        row=prompt.row,
        failures=tuple(f"{failure.where}: {failure.kind}: {failure.message}" for failure in group.failures),
    )


def _why_failed(group: Group, sampling: SamplingConfig) -> str | None:
    if not group.completions:
        failure = group.failures[0]
        return f"{failure.where}: {failure.kind}: {failure.message}"
    return why_refused(group, sampling)


def _numbers(values_G: FloatArray | None) -> tuple[float | None, ...]:
    """JSON has no NaN."""
    return tuple(value if math.isfinite(value) else None for value in ([] if values_G is None else values_G.tolist()))


def _pool_seed(drawing: Drawing, num_done: int) -> int:
    """A resumed draw goes on with other noise; with a seed for every answer it needs none."""
    return drawing.seed if drawing.deterministic or not num_done else engine_seed(drawing.seed, 0, num_done)
