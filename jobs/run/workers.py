"""Starting rollout workers by number, each in room of its own in the cluster, and giving that room back.

Given what all workers of a run share; gives handles of workers whose engines are up. Numbers up to those of the start
have their room already; a worker that joins later asks for it then.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from raylign.actors.cluster import ClusterConfig, is_private
from raylign.actors.drain_notice import draining_nodes
from raylign.actors.placement import node_of, release, reserve, until_placed
from raylign.actors.rollout_errors import RolloutError
from raylign.actors.rollout_worker import RolloutWorker
from raylign.actors.waiting import REPORT_S, wait_for
from raylign.jobs.run.engine_shares import cores_of_engine, engine_seed
from raylign.rollout.engine.config import EngineConfig

START_GRACE_S = 30.0
"""A worker that finds its engine not started in time says so by itself, with the engine's words."""


@dataclass
class Workers:
    """`start` and `give_back` are what a `Fleet` is given."""

    model_path: str
    engine: EngineConfig
    num_engines: int
    """At the start."""
    cluster: ClusterConfig
    cpus: float
    num_gpus: float
    weight_backend: str | None
    weight_version: int
    seed: int
    share_gpu: bool
    lora_rank: int
    cores: Sequence[int] | None
    rooms: dict[int, Any]
    """Ready placement groups, by number."""
    on_new_room: Callable[[Any], Awaitable[None]] | None = None
    """Told of the room of one that joins, before it starts; an error means that it cannot be used."""
    cpus_of: dict[int, float] = field(default_factory=dict, init=False)
    """By number of those that joined."""
    _were_started: set[int] = field(default_factory=set, init=False)

    async def start(self, number: int) -> Any:
        """A worker that holds the weights of `model_path`, under the label `weight_version`."""
        if number in self._were_started and not is_private(self.cluster) and await self._is_drained(number):
            self.give_back(number)
        if number not in self.rooms:
            self.rooms[number] = await self._new_room(number)
            if self.on_new_room is not None:
                await self.on_new_room(self.rooms[number])
        elif number in self._were_started and not is_private(self.cluster):  # perhaps its node was lost
            deadline_s, labels = self.cluster.placement_deadline_s, self.cluster.labels.rollout
            await until_placed(
                self.rooms[number], f"rollout worker {number}", self._resources(number), deadline_s, labels
            )
        self._were_started.add(number)
        worker = self._actor(number)
        try:
            await wait_for(
                worker.start.remote(),
                f"rollout worker {number} to start",
                self.engine.start_deadline_s + START_GRACE_S,
                setting="engine.start_deadline_s",
                error=RolloutError,
                report_s=2 * REPORT_S,  # the worker reports its engine's start itself, if it gets that far
            )
        except BaseException:
            import ray

            ray.kill(worker)
            raise
        return worker

    async def _is_drained(self, number: int) -> bool:
        """Ray moves room by itself from a node that is gone, not from one that is about to go."""
        return number in self.rooms and node_of(self.rooms[number]) in await asyncio.to_thread(draining_nodes)

    def give_back(self, number: int) -> None:
        """The room of a worker that has ended."""
        self.cpus_of.pop(number, None)
        if number in self.rooms:
            release([self.rooms.pop(number)])

    async def _new_room(self, number: int) -> Any:
        self.cpus_of[number] = self._cpus_of_newcomer()
        deadline_s, labels = self.cluster.placement_deadline_s, self.cluster.labels.rollout
        return await reserve(f"rollout worker {number}", self._resources(number), deadline_s, labels)

    def _resources(self, number: int) -> dict[str, float]:
        cpus = self.cpus_of.get(number, self.cpus)
        return {"CPU": cpus} | ({"GPU": self.num_gpus} if self.num_gpus else {})

    def _cpus_of_newcomer(self) -> float:
        """On a private cluster the CPUs were shared out at the start: half of what is left, so that another fits."""
        import ray

        if not is_private(self.cluster):
            return self.cpus
        return min(self.cpus, math.floor(1e4 * ray.available_resources().get("CPU", 0.0) / 2) / 1e4)

    def _actor(self, number: int) -> Any:
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        actor: Any = ray.remote(RolloutWorker).options(
            num_cpus=self.cpus_of.get(number, self.cpus),
            num_gpus=self.num_gpus,
            max_concurrency=1000,
            scheduling_strategy=PlacementGroupSchedulingStrategy(self.rooms[number]),
        )
        return actor.remote(
            self.model_path,
            self.engine,
            self.weight_backend,
            self.weight_version,
            self.seed,
            engine_seed(self.seed, number, self.weight_version),
            cores_of_engine(number, max(self.num_engines, number + 1), self.cores),
            self.share_gpu,
            self.lora_rank,
            self.cores is not None,
        )
