"""The flow of experience: prompts → engines → rewards → log → batches, running beside the learner.

Given a run's config, prompts and workers; gives a `StepBatch` for each step, and takes word of what the learner did.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from raylign.actors.experience_host import ExperienceHost
from raylign.actors.feeder import FeederCounts, RolloutFeeder
from raylign.actors.rollout_pool import RolloutPool
from raylign.actors.waiting import wait_for
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.run.step_batches import Leased, StepBatch, StepBatches
from raylign.learners.algorithms.base import Algorithm, Routing
from raylign.rollout.data.prompts import PromptSource
from raylign.rollout.experience.schema import batch_to_groups, message_to_batch
from raylign.rollout.experience.types import START, ExperienceConfig, ExperienceError, LogPosition
from raylign.rollout.sample import Prompt
from raylign.rollout.staleness import StalenessBound

LOG_DEADLINE_S = 120.0
"""For a call that only reads or writes a line of its journal, or gives a disk time to sync."""
CLOSE_DEADLINE_S = 15.0


class ExperienceFlow(Protocol):
    """What a run sees of it."""

    async def next(self, step: int) -> StepBatch:
        """The batch of `step`."""

    def fail(self, error: Exception) -> None:
        """Engines cannot go on: whoever waits for a batch gets the error."""

    async def trained(self, batch: StepBatch) -> tuple[FeederCounts, dict[str, Any] | None]:
        """The step of `batch` is done; gives what happened meanwhile, and where the log stands (for checkpoints)."""

    async def commit(self) -> None:
        """A checkpoint of all steps trained so far is complete."""

    async def stop(self) -> None:
        """End; what is in the log stays."""


class LiveFlow:
    """Engines generate. Built by `start`; what is being generated at `stop` is issued again by a resumed run."""

    def __init__(
        self, log: Any, feeder: RolloutFeeder, batches: StepBatches, looks_ahead: bool, num_steps: int
    ) -> None:
        self._log, self._feeder, self._batches = log, feeder, batches
        self._looks_ahead, self._num_steps = looks_ahead, num_steps
        self._position = START

    @classmethod
    async def start(
        cls,
        config: TrainConfig,
        pool: RolloutPool,
        prompts: PromptSource,
        algorithm: Algorithm,
        folder: Path,
        *,
        step: int,
        position: dict[str, Any] | None,
        takes_turns: bool,
    ) -> LiveFlow:
        """Open the log, and feed the engines from where the ledger says that things stand. `takes_turns`: engine and
        learner share a GPU, so nothing may run ahead (the bound η then holds with 0)."""
        settings, rollout = config.asynchrony, config.rollout
        runs_ahead = 0 if takes_turns else settings.max_staleness
        log = start_experience_host(folder, config.experience, config.seed)
        start = LogPosition.from_json(position) if position else START
        opened = await answer(log.start.remote(start), rollout.answer_deadline_s)  # reads the whole log
        for damage in opened.damage:
            print(damage, flush=True)
        routing = algorithm.routing
        feeder = RolloutFeeder(
            pool,
            log,
            prompts.prompt if routing is None else partial(generated_prompt, prompts, routing),
            config.sampling,
            StalenessBound(runs_ahead, rollout.prompts_per_step, routing.generated_before if routing else None),
            step=step,
            num_steps=config.num_steps,
            missing=opened.missing_ordinals,
            next_ordinal=opened.next_ordinal,
            ordered=rollout.deterministic,
            aborts_stale=settings.stale == "drop",
        )
        batches = StepBatches(
            LogGroups(log, lease_s=2 * rollout.answer_deadline_s + config.learner.step_deadline_s),
            algorithm,
            config,
            reissue=feeder.reissue,
            why_stuck=lambda: f"nothing can start: {feeder.state()}" if feeder.cannot_move else None,
            state=feeder.state,
        )
        await feeder.start()
        return cls(log, feeder, batches, runs_ahead > 0, config.num_steps)

    async def next(self, step: int) -> StepBatch:
        self._feeder.begin_step()
        batch = await self._unless_it_fails(self._batches.next(step))
        if self._looks_ahead and step + 1 < self._num_steps:
            self._batches.look_ahead(step + 1)
        return batch

    def fail(self, error: Exception) -> None:
        self._feeder.fail(error)

    async def trained(self, batch: StepBatch) -> tuple[FeederCounts, dict[str, Any] | None]:
        self._feeder.step_trained(batch.step + 1)
        self._position = await answer(self._log.settle.remote(batch.lease_ids, batch.step))
        return self._feeder.take_counts(), self._position.to_json()

    async def commit(self) -> None:
        await answer(self._log.commit.remote(self._position))

    async def stop(self) -> None:
        import ray

        await self._batches.stop()
        await self._feeder.stop()
        try:
            await wait_for(self._log.close.remote(), "the experience log to close", CLOSE_DEADLINE_S)
        except Exception as error:
            print(f"the experience log did not close ({error}); what it has acknowledged is on disk", flush=True)
        finally:
            ray.kill(self._log)

    async def _unless_it_fails(self, work: Coroutine[Any, Any, StepBatch]) -> StepBatch:
        waiting: asyncio.Future[Any] = asyncio.ensure_future(work)
        try:
            await asyncio.wait({waiting, self._feeder.failure}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not waiting.done():
                waiting.cancel()
        if self._feeder.failure.done():
            self._feeder.failure.result()
        return waiting.result()


def generated_prompt(prompts: PromptSource, routing: Routing, generated_ordinal: int) -> Prompt:
    """The prompt of a row that the policy answers, numbered among such rows."""
    return replace(prompts.prompt(routing.row_of(generated_ordinal)), ordinal=generated_ordinal)


class LogGroups:
    """The log's host as a `GroupSource`."""

    def __init__(self, log: Any, lease_s: float) -> None:
        self._log, self._lease_s = log, lease_s

    async def lease(self, count: int, step: int, wait_s: float) -> Leased | None:
        lease = await answer(self._log.lease.remote(count, self._lease_s, step, wait_s), wait_s + LOG_DEADLINE_S)
        if lease is None:
            return None
        groups = batch_to_groups(message_to_batch(lease.batch))
        if (lease.weights != 1.0).any():
            groups = [
                replace(group, importance_weight=float(weight))
                for group, weight in zip(groups, lease.weights, strict=True)
            ]
        return Leased(lease.lease_id, groups, list(lease.offsets))

    async def mark_filtered(self, offsets: Sequence[int], step: int) -> None:
        await answer(self._log.mark_filtered.remote(offsets, step))

    async def mark_dropped(self, offsets: Sequence[int], step: int) -> list[int]:
        ordinals: list[int] = await answer(self._log.mark_dropped.remote(offsets, "stale", step))
        return ordinals


async def answer(call: Awaitable[Any], deadline_s: float = LOG_DEADLINE_S) -> Any:
    """What the log's process answers; its own words, or that it is gone or hangs, as an `ExperienceError`."""
    try:
        return await wait_for(call, "the experience log; go on by --resume", deadline_s)
    except ValueError:  # a mistake of the user's
        raise
    except Exception as error:
        raise ExperienceError(str(error)) from error


def start_experience_host(folder: Path, config: ExperienceConfig, seed: int) -> Any:
    """The log's actor, on this node: the run folder is here."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(ExperienceHost).options(num_cpus=0, max_concurrency=1000, scheduling_strategy=here)
    return actor.remote(folder.absolute(), config, seed)
