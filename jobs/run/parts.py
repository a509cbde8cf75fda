"""The parts of a run that are processes of their own: learner, engines with their rewards, and the publisher between.

Given a `TrainConfig` and the checkpoint to go on from; gives the parts that the run needs, started side by side, and
ends them in reverse order.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from raylign.actors.cluster import is_private
from raylign.actors.cores import split_cores
from raylign.actors.drain_notice import draining_nodes, heed_drains
from raylign.actors.learner.group import LearnerGroup
from raylign.actors.learner.spec import LearnerSpec
from raylign.actors.placement import release
from raylign.actors.rollout_pool import RolloutPool
from raylign.actors.weights.node_copies import NodeCopies
from raylign.actors.weights.publisher import WeightPublisher
from raylign.jobs.config.train import TrainConfig, answers_rows
from raylign.jobs.run.checkpoints import Checkpoint
from raylign.jobs.run.roles import (
    SHARED_GPU,
    asks_for_gpus,
    cpus_for_each_role,
    gpus_of_engine,
    leaves_the_gpu,
    num_cluster_gpus,
    place_engines,
    shares_gpu,
    start_pool,
    start_reward_server,
    way_between_nodes,
)
from raylign.learners.algorithms.facts import RunRows
from raylign.rewards.registry import is_quick

Start = Callable[[], Coroutine[Any, Any, None]]


class RunParts:
    """A part is an attribute from when it is started; `stop` ends those that were."""

    learner: LearnerGroup
    rollouts: RolloutPool
    """Absent (never started) where nothing is generated: sft without evaluation."""
    evaluation_pool: RolloutPool
    """The same engines, with the rewards that evaluations measure."""
    publisher: WeightPublisher
    """Brings weights to the engines; only where there are engines."""
    takes_turns = False
    """Colocated mode: the only GPU belongs to the engine or to the learner by turns."""
    shares_gpu = False
    """The same, or side by side on it, where the engine only evaluates."""

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self._generates = config.algorithm.needs_rollouts and not config.replay
        answers_held_out = config.evaluation.data is not None and not config.replay
        needs_engines = self._generates or answers_rows(config) or answers_held_out
        self.num_engines = config.rollout.num_engines if needs_engines else 0
        self._lora = config.learner.lora if config.weights.lora == "adapter" else None
        """Set where engines are sent adapters alone."""
        self._started = AsyncExitStack()
        """How to end the engines' side, in the order of its start."""
        self._learner_started = AsyncExitStack()
        """The same for the learner and what brings its weights to the engines."""
        self.keeps_engines = False
        """The next `stop` ends the learner alone, and the next `start` starts it alone."""
        self._rooms: dict[int, Any] = {}
        """Of engines, by number."""

    async def start(
        self,
        num_steps: int,
        run_folder: Path,
        checkpoint: Checkpoint | None,
        rows: RunRows,
    ) -> None:
        """Side by side: most of their time is imports. `rows`: those of the run, for every rank."""
        config, uses_gpus = self._config, asks_for_gpus(self._config.cluster)
        num_gpus = num_cluster_gpus() if config.cluster.gpus == "auto" else 0  # with `always` more are to come
        cpus = cpus_for_each_role(config.learner.num_ranks + self.num_engines)
        gpus_per_engine = config.rollout.engine.tensor_parallel_size
        share_gpu = shares_gpu(num_gpus, config.learner.num_ranks, self.num_engines, gpus_per_engine)
        self.shares_gpu, self.takes_turns = share_gpu, share_gpu and self._generates
        engine_cores: list[int] | None = None
        learner_cores: list[int] = []
        if not uses_gpus and (self._generates or answers_rows(config)) and config.asynchrony.max_staleness > 0:
            engine_cores, learner_cores = split_cores(os.sched_getaffinity(0), config.rollout.engine.cpu_cores)
        self.learner = LearnerGroup(
            self._learner_spec(num_steps, run_folder.absolute(), checkpoint, rows, learner_cores),
            cpus_per_rank=cpus,
            gpus_per_rank=SHARED_GPU if share_gpu else float(uses_gpus),
            labels=config.cluster.labels.learner,
            reads_files=is_private(config.cluster),
        )
        self._learner_started.push_async_callback(self.learner.stop)
        copies, deadline_s = None, config.cluster.placement_deadline_s
        learner_starts: Start = self.learner.load
        if is_private(config.cluster):
            learner_starts = partial(self.learner.start, deadline_s)
        else:  # ranks are placed before engines, and weights must be able to travel before anybody loads a model
            until_s = time.monotonic() + deadline_s
            learner_node = await self.learner.place(deadline_s)
            if not self.keeps_engines:
                gpus = gpus_of_engine(config.rollout.engine, config.cluster, share_gpu)
                left_s, labels = until_s - time.monotonic(), config.cluster.labels.rollout
                self._rooms |= enumerate(await place_engines(self.num_engines, cpus, gpus, left_s, labels))
                self._started.callback(release, self._rooms.values())
            self._learner_node = learner_node
            copies = await way_between_nodes(config.weights, learner_node, [*self._rooms.values()])
            if copies is not None:
                self._learner_started.push_async_callback(copies.close)
        if self.keeps_engines:
            await learner_starts()
            await self._engines_go_back(checkpoint, copies)
            return
        engines_start = partial(self._start_engines, checkpoint, cpus, share_gpu, engine_cores, copies)
        await self._start_roles(learner_starts, engines_start)

    @asynccontextmanager
    async def learner_on_its_gpu(self) -> AsyncIterator[None]:
        """For what the learner does between its turns: engine and learner hold memory there meanwhile."""
        if self.takes_turns:
            await self.learner.reload()
        yield
        if self.takes_turns:
            await self.learner.offload()

    async def _start_roles(self, learner_starts: Start, engines_start: Start) -> None:
        """Side by side; on one GPU the engine first: it would count what a learner allocates meanwhile as its own."""
        if self.takes_turns:
            await engines_start()
            await self.rollouts.sleep()
            await learner_starts()
            await self.publisher.set_aside()
            await self.learner.offload()
            await self.rollouts.wake()
            await self.publisher.catch_up()
            return
        if self.shares_gpu:
            await engines_start()
            await learner_starts()
        else:
            await asyncio.gather(learner_starts(), *([engines_start()] if self.num_engines else []))
        if self.num_engines and self._lora:
            await self.publisher.catch_up()

    def _learner_spec(
        self,
        num_steps: int,
        run_folder: Path,
        checkpoint: Checkpoint | None,
        rows: RunRows,
        cores: list[int],
    ) -> LearnerSpec:
        config, learns_from_rows = self._config, self._config.algorithm.learns_from_rows
        return LearnerSpec(
            config=leaves_the_gpu(config.learner) if self.takes_turns else config.learner,
            model_path=config.model.path,
            algorithm=config.algorithm,
            temperature=1.0 if learns_from_rows else config.sampling.temperature,
            total_optimizer_steps=num_steps * config.algorithm.optimizer_steps_per_batch,
            seed=config.seed,
            debug_folder=str(run_folder / "debug"),
            state_folder=str(checkpoint.state_path) if checkpoint else None,
            weights_bucket_bytes=config.weights.bucket_mib << 20,
            max_staleness=config.asynchrony.max_staleness,
            rows=rows,
            reference_cache=str(run_folder / "reference") if learns_from_rows else "",
            cpu_cores=tuple(cores),
            ships_adapters=self._lora is not None,
        )

    async def _start_engines(
        self,
        checkpoint: Checkpoint | None,
        cpus: float,
        share_gpu: bool,
        cores: list[int] | None,
        copies: NodeCopies | None,
    ) -> None:
        """`copies`: how weights come to them from another node."""
        config = self._config
        version = checkpoint.record.step if checkpoint else 0
        # engines that are sent adapters hold the model under them; a checkpoint has them folded in
        model_path = str(checkpoint.path) if checkpoint and self._lora is None else config.model.path
        self.rollouts = await start_pool(
            model_path,
            config.rollout.engine,
            self.num_engines,
            config.rewards or config.evaluation.rewards,
            weight_backend="shared_memory",
            weight_version=version,
            seed=config.seed,
            cpus=cpus,
            cluster=config.cluster,
            answer_deadline_s=config.rollout.answer_deadline_s,
            share_gpu=share_gpu,
            lora_rank=self._lora.rank if self._lora else 0,
            cores=cores,
            rooms=self._rooms,
            on_new_room=None if is_private(config.cluster) else self._reach,
        )
        self._started.push_async_callback(self.rollouts.stop)
        self.evaluation_pool = self.rollouts
        if config.evaluation.rewards and config.evaluation.rewards != config.rewards:
            self.evaluation_pool = self.rollouts.with_rewards(
                await start_reward_server(config.evaluation.rewards, config.cluster),
                scores_apart=not all(map(is_quick, config.evaluation.rewards)),
            )
        self._publish_from(version, copies)
        if not is_private(config.cluster):
            watch = asyncio.create_task(heed_drains(self.rollouts.fleet, partial(asyncio.to_thread, draining_nodes)))
            self._started.callback(watch.cancel)

    def _publish_from(self, version: int, copies: NodeCopies | None) -> None:
        self.publisher = WeightPublisher(self.rollouts.fleet, self.learner, self._config.weights, version, copies)
        self._learner_started.push_async_callback(self._close_publisher)

    async def _engines_go_back(self, checkpoint: Checkpoint | None, copies: NodeCopies | None) -> None:
        """Those of a run whose learner was lost: what they do is void, and they are sent what the learner holds."""
        self.keeps_engines = False
        if self.num_engines:
            await self.rollouts.forget()
            self._publish_from(checkpoint.record.step if checkpoint else 0, copies)
            await self.publisher.catch_up()

    async def _reach(self, room: Any) -> None:
        """Weights can come to where an engine joins, be it on another node than all others."""
        if not self.publisher.travels:
            copies = await way_between_nodes(self._config.weights, self._learner_node, [room])
            if copies is not None:
                self.publisher.travel_by(copies)

    async def before_learning(self) -> None:
        """No engine is sent weights that change meanwhile."""
        if self.num_engines:
            await self.publisher.before_learning()

    async def stop(self) -> None:
        """Reverse order, each part with a deadline, and the rest whatever happens to one."""
        try:
            await self._learner_started.aclose()
        finally:
            if not self.keeps_engines:
                await self._started.aclose()
                self._rooms.clear()

    async def _close_publisher(self) -> None:
        with suppress(Exception):  # the learner may be what failed; its memory goes with its process
            await self.publisher.close()
