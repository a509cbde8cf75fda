"""The flow of experience: prompts → engines → rewards → log → batches, running beside the learner.

Given a run's config, prompts and workers; gives a `StepBatch` for each step, and takes word of what the learner did.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from raylign.actors.experience_host import ExperienceHost
from raylign.actors.feeder import FeederCounts, RolloutFeeder
from raylign.actors.handles import start_again
from raylign.actors.placement import on_this_node
from raylign.actors.rollout_pool import RolloutPool
from raylign.actors.sign_of_life import keep_answering, watch_engines
from raylign.actors.waiting import wait_for
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.curricula.base import Curriculum
from raylign.jobs.run.log_calls import answer
from raylign.jobs.run.roles import REWARD_SERVER_START_S
from raylign.jobs.run.step_batches import StepBatch, StepBatches
from raylign.rollout.experience.types import START, ExperienceConfig, LogPosition

CLOSE_DEADLINE_S = 15.0


class Batches(Protocol):
    """The batches of a flow."""

    async def next(self, step: int) -> StepBatch:
        """The batch of `step`, as soon as it is there."""


class ExperienceFlow(Protocol):
    """What a run sees of it."""

    @property
    def batches(self) -> Batches:
        """What the steps train."""

    def begin_step(self) -> None:
        """The loop begins its next step: no evaluation has the engines."""

    def fail(self, error: Exception) -> None:
        """Engines cannot go on: whoever waits for a batch gets the error."""

    async def trained(self, batch: StepBatch) -> tuple[FeederCounts | None, dict[str, Any] | None]:
        """The step of `batch` is done; gives what happened meanwhile (None where nothing is generated), and where the
        log stands (for checkpoints)."""

    async def commit(self) -> None:
        """A checkpoint of all steps trained so far is complete."""

    async def stop(self) -> None:
        """End; what is in the log stays."""


class LiveFlow:
    """Engines generate. Built by `start`; what is being generated at `stop` is issued again by a resumed run."""

    def __init__(self, log: Any, feeder: RolloutFeeder, batches: StepBatches) -> None:
        self._log, self._feeder, self.batches = log, feeder, batches
        self._position = START
        self._watches: list[asyncio.Task[None]] = []

    @classmethod
    async def start(
        cls,
        config: TrainConfig,
        pool: RolloutPool,
        curriculum: Curriculum,
        folder: Path,
        *,
        step: int,
        position: dict[str, Any] | None,
        takes_turns: bool,
        lost: Callable[[], Awaitable[Exception]] | None = None,
    ) -> LiveFlow:
        """Open the log, and feed the engines from where the ledger says that things stand. `takes_turns`: engine and
        learner share a GPU, so nothing may run ahead (the bound η then holds with 0). `lost`: returns, with its error,
        when there is no learner any more that a batch could be for; None where none can be lost."""
        rollout = config.rollout
        runs_ahead = 0 if takes_turns else config.asynchrony.max_staleness
        log = start_experience_host(folder, config.experience, config.seed)
        start = LogPosition.from_json(position) if position else START
        opened = await answer(log.start.remote(start), rollout.answer_deadline_s)  # reads the whole log
        for damage in opened.damage:
            print(damage, flush=True)
        if position:
            missing, asked_from = len(opened.missing_ordinals), opened.next_ordinal
            print(f"{missing} prompts are answered again, and all from number {asked_from} on", flush=True)
        feeder = RolloutFeeder(
            pool,
            log,
            curriculum.prompt,
            config.sampling,
            curriculum.bound(runs_ahead),
            step=step,
            num_steps=config.num_steps,
            missing=opened.missing_ordinals,
            next_ordinal=opened.next_ordinal,
            ordered=rollout.deterministic,
            aborts_stale=config.asynchrony.stale == "drop",
        )
        await feeder.start()
        flow = cls(log, feeder, StepBatches(log, feeder, curriculum, config, looks_ahead=runs_ahead > 0))
        flow._watch("the experience log", log, log.state, rollout.answer_deadline_s)
        flow._watch("the reward server", pool.reward_server, pool.reward_server.ready, REWARD_SERVER_START_S)
        watching = watch_engines(pool.fleet, rollout.engine.silence_deadline_s)
        flow._watches.append(asyncio.create_task(watching))
        if lost is not None:
            flow._watches.append(asyncio.create_task(flow._fail_with(lost())))
        return flow

    async def _fail_with(self, lost: Awaitable[Exception]) -> None:
        self.fail(await lost)

    def _watch(self, what: str, actor: Any, verb: Any, start_s: float) -> None:
        watching = keep_answering(what, verb.remote, partial(start_again, actor), start_s)
        self._watches.append(asyncio.create_task(watching))

    def begin_step(self) -> None:
        self._feeder.begin_step()

    def fail(self, error: Exception) -> None:
        self._feeder.fail(error)

    async def trained(self, batch: StepBatch) -> tuple[FeederCounts | None, dict[str, Any] | None]:
        self._feeder.step_trained(batch.step + 1)
        self._position = await answer(self._log.settle.remote(batch.lease_ids, batch.step, self.batches.held))
        self.batches.settled(batch)
        return self._feeder.take_counts(), self._position.to_json()

    async def commit(self) -> None:
        await answer(self._log.commit.remote(self._position))

    async def stop(self) -> None:
        import ray

        for watch in self._watches:
            watch.cancel()
        await self.batches.stop()
        await self._feeder.stop()
        try:
            await wait_for(self._log.close.remote(), "the experience log to close", CLOSE_DEADLINE_S)
        except Exception as error:
            print(f"the experience log did not close ({error}); what it has acknowledged is on disk", flush=True)
        finally:
            ray.kill(self._log)


def start_experience_host(folder: Path, config: ExperienceConfig, seed: int) -> Any:
    """The log's actor, on this node: the run folder is here. One that dies is started again, and the calls that it died
    in are repeated, as often as it takes: whoever calls has a deadline."""
    import ray

    options: dict[str, Any] = {"num_cpus": 0, "max_concurrency": 1000, "max_restarts": -1, "max_task_retries": -1}
    actor: Any = ray.remote(ExperienceHost).options(scheduling_strategy=on_this_node(), **options)
    return actor.remote(folder.absolute(), config, seed)
