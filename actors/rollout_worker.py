"""A rollout worker: the Ray host of one engine.

Given prompts, gives finished groups in one of two ways:

    generate_for_log   groups go from here to the reward server and on to the experience log; the caller hears only of
                       failures, by `poll_failures`. Arrays never pass through the train loop.
    submit, take       groups come back to the caller, a batch a call (evaluation)

Weight verbs are passed on. `take` and `poll_failures` wait for the first thing to tell (a running request unblocks
them) and never longer than their deadline.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

from raylign.actors.cores import parse_cores
from raylign.actors.delivery import GATHER_S, LogDelivery
from raylign.actors.waiting import happens
from raylign.rollout.engine.base import RolloutEngine, request_seed
from raylign.rollout.engine.builder import build_engine
from raylign.rollout.engine.config import EngineConfig
from raylign.rollout.engine.output_check import why_refused
from raylign.rollout.sample import Failure, Group, Prompt
from raylign.rollout.sampling import SamplingConfig, check_trainable
from raylign.rollout.weights.buckets import BucketInfo

QUEUE_DEADLINE_S = 20.0


class RolloutWorker:
    """One engine behind its verbs."""

    def __init__(
        self,
        model_path: str,
        config: EngineConfig,
        weight_backend: str | None,
        weight_version: int,
        seed: int,
        engine_seed: int,
        cpu_cores: str,
        sleeps: bool = False,
        lora_rank: int = 0,
        stays_on_cores: bool = False,
    ) -> None:
        """`stays_on_cores`: all of its processes keep to the engine's cores, since a learner computes on the others."""
        if config.cpu_cores == "auto":
            config = config.model_copy(update={"cpu_cores": cpu_cores})
        if stays_on_cores and (cores := set(parse_cores(config.cpu_cores)) & os.sched_getaffinity(0)):
            os.sched_setaffinity(0, cores)
        engine = build_engine(
            model_path, config, weight_backend=weight_backend, seed=engine_seed, sleeps=sleeps, lora_rank=lora_rank
        )
        self._host(engine, weight_version, seed)

    @classmethod
    def around(cls, engine: RolloutEngine, weight_version: int = 0, seed: int = 0) -> RolloutWorker:
        """A worker of any engine: unit tests and benchmarks without a model."""
        worker = cls.__new__(cls)
        worker._host(engine, weight_version, seed)
        return worker

    def _host(self, engine: RolloutEngine, weight_version: int, seed: int) -> None:
        self._engine = engine
        self._weight_version = weight_version
        self._seed = seed
        self._running: dict[int, asyncio.Task[Group]] = {}
        """By ordinal."""
        self._background: set[asyncio.Task[None]] = set()
        self._finished: list[Group] = []
        self._finished_came = asyncio.Event()
        self._delivery = LogDelivery()

    async def start(self) -> int:
        """Load the model; gives this process's id, for reports."""
        await self._engine.start()
        await self._engine.commit_weight_version(self._weight_version)
        return os.getpid()

    async def node(self) -> str:
        """The node of the cluster that this process runs on."""
        import ray

        node: str = ray.get_runtime_context().get_node_id()
        return node

    # ---- for the experience log ------------------------------------------------------------------------

    async def connect(self, reward_server: Any, log: Any, deadline_s: float, scores_apart: bool = False) -> None:
        """Where groups of `generate_for_log` go, and how long it may take to score and log a batch of them."""
        self._delivery.connect(reward_server, log, deadline_s, scores_apart)

    async def generate_for_log(self, prompts: Sequence[Prompt], sampling: SamplingConfig, ordered: bool) -> None:
        """Start generating; finished groups go to the log, failed ones to `poll_failures`.

        `ordered` (deterministic runs): see `submit`; all groups of the call reach the log together.
        """
        check_trainable(sampling)
        task = asyncio.create_task(self._generate_for_log(prompts, sampling, ordered))
        self._background.add(task)  # tasks nobody holds would be collected while they run
        task.add_done_callback(self._background.discard)

    async def _generate_for_log(self, prompts: Sequence[Prompt], sampling: SamplingConfig, ordered: bool) -> None:
        tasks = await self._start_generating(prompts, sampling, ordered)
        self._delivery.keeps_order = ordered
        if ordered:
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            self._hand_over([group for group in outcomes if isinstance(group, Group)], sampling)
            return
        for task in tasks:
            task.add_done_callback(
                lambda done: None if done.cancelled() else self._hand_over([done.result()], sampling)
            )

    def _hand_over(self, groups: Sequence[Group], sampling: SamplingConfig) -> None:
        """Complete and valid groups to the log; the others are failures."""
        for group in groups:
            ordinal = group.prompt.ordinal
            if not group.completions:
                self._delivery.report(ordinal, group.failures[0])
            elif why := why_refused(group, sampling):
                failure = Failure("refused", "engine", f"prompt {group.prompt.prompt_id}: {why}")
                self._delivery.report(ordinal, failure)
            else:
                self._delivery.send(group)

    async def poll_failures(self, deadline_s: float) -> list[tuple[int, Failure]]:
        """See `LogDelivery.poll_failures`."""
        return await self._delivery.poll_failures(deadline_s)

    async def forget(self) -> None:
        """Give up all groups, the way to the log and a weight update that has not ended: the learner goes back to a
        checkpoint, whose version and log are to come."""
        for task in [*self._running.values(), *self._background]:
            task.cancel()
        self._delivery.stop()
        self._delivery, self._finished = LogDelivery(), []
        await self._engine.abort_weight_update("the learner goes back to a checkpoint")

    async def abort(self, ordinals: Sequence[int]) -> None:
        """Give up these groups; nothing more is heard of them."""
        for ordinal in ordinals:
            if ordinal in self._running:
                self._running[ordinal].cancel()

    # ---- for the caller --------------------------------------------------------------------------------

    async def submit(self, prompts: Sequence[Prompt], sampling: SamplingConfig, ordered: bool = False) -> None:
        """Start generating for `take`. `ordered` gives every completion its own seed, and freezes the engine while the
        batch is queued, so that its schedule is fixed."""
        for task in await self._start_generating(prompts, sampling, ordered):
            task.add_done_callback(self._keep_finished)

    def _keep_finished(self, task: asyncio.Task[Group]) -> None:
        if not task.cancelled():
            self._finished.append(task.result())
            self._finished_came.set()

    async def take(self, deadline_s: float) -> list[Group]:
        """Finished groups, at least one; empty when none finished within the deadline."""
        if not await happens(self._finished_came, deadline_s):
            return []
        await asyncio.sleep(GATHER_S)
        taken, self._finished = self._finished, []
        self._finished_came.clear()
        return taken

    # ---- generating ------------------------------------------------------------------------------------

    async def _start_generating(
        self, prompts: Sequence[Prompt], sampling: SamplingConfig, ordered: bool
    ) -> list[asyncio.Task[Group]]:
        if ordered:
            await self._engine.pause()
        tasks = []
        for prompt in prompts:
            seed = request_seed(self._seed, prompt.ordinal) if ordered else None
            task = asyncio.create_task(self._generate(prompt, sampling, seed))
            self._running[prompt.ordinal] = task
            task.add_done_callback(partial(self._forget, prompt.ordinal))
            tasks.append(task)
        if ordered:
            num_completions = len(prompts) * sampling.num_completions
            if not await self._engine.wait_until_queued(num_completions, QUEUE_DEADLINE_S):
                print(
                    f"not all of {num_completions} completions were queued within {QUEUE_DEADLINE_S:.0f} s", flush=True
                )
            await asyncio.sleep(0.05)  # the last of them is on its way to the engine's process
            await self._engine.resume()
        return tasks

    def _forget(self, ordinal: int, task: asyncio.Task[Group]) -> None:
        if self._running.get(ordinal) is task:
            del self._running[ordinal]

    async def _generate(self, prompt: Prompt, sampling: SamplingConfig, seed: int | None) -> Group:
        try:
            return await self._engine.generate(prompt, sampling, seed)
        except Exception as error:  # the prompt is reported as failed; the worker lives on
            failure = Failure("engine", "engine", f"{type(error).__name__}: {error}")
            return Group(prompt, (), failures=(failure,))

    # ---- weights ---------------------------------------------------------------------------------------

    async def pause(self) -> None:
        await self._engine.pause()

    async def resume(self) -> None:
        await self._engine.resume()

    async def check_weights(self, buckets: Sequence[BucketInfo]) -> None:
        await self._engine.check_weights(buckets)

    async def load_weights(self, buckets: Sequence[BucketInfo]) -> str | None:
        return await self._engine.load_weights(buckets)

    async def abort_weight_update(self, reason: str) -> None:
        await self._engine.abort_weight_update(reason)

    async def commit_weights(self, version: int, recompute_kv: bool) -> None:
        await self._engine.commit_weights(version, recompute_kv)

    async def weight_checksum(self) -> str:
        return await self._engine.weight_checksum()

    async def sleep(self) -> None:
        await self._engine.sleep()

    async def wake(self) -> None:
        await self._engine.wake()

    async def stop(self) -> None:
        """End the engine's processes."""
        for task in [*self._running.values(), *self._background]:
            task.cancel()
        self._delivery.stop()
        await self._engine.stop()
