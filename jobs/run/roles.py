"""Starting the roles of a run as Ray actors: rollout workers and the reward server.

Given configs and the cluster's resources; gives a `RolloutPool`, ready. On CPU machines a role asks for a share of
the cores, so that all roles fit where they take turns; on GPUs each engine and each rank holds its own,
but for the only GPU of a machine, which one engine and one rank share.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from raylign.actors.cluster import ClusterConfig
from raylign.actors.cores import share_of
from raylign.actors.fleet import Fleet
from raylign.actors.placement import node_of, release, reserve
from raylign.actors.reward_server import RETRIES, RewardServer
from raylign.actors.rollout_errors import RewardServerError, RolloutError
from raylign.actors.rollout_pool import RolloutPool
from raylign.actors.rollout_worker import RolloutWorker
from raylign.actors.waiting import wait_for
from raylign.actors.weights.config import WeightsConfig
from raylign.actors.weights.node_copies import NodeCopies, start_courier
from raylign.actors.weights.transport import way_of_weights
from raylign.learners.engines.config import LearnerConfig
from raylign.rewards.model_place import ModelConfig
from raylign.rewards.registry import RewardConfig, is_quick
from raylign.rollout.engine.config import EngineConfig

REWARD_SERVER_START_S = 120.0
START_GRACE_S = 30.0
"""A worker that finds its engine not started in time says so by itself, with the engine's words."""
SHARED_GPU = 0.5
"""Of the only GPU, what engine and learner rank each ask Ray for."""
SHARED_GPU_ENGINE_MEMORY = 0.4
"""Of the only GPU's memory, what the engine may take at most beside a learner rank."""


def cpus_for_each_role(num_roles: int) -> float:
    """CPUs that one role asks Ray for: a whole one where there are enough, else an equal share with some left over."""
    import ray

    return min(1.0, ray.cluster_resources().get("CPU", 1.0) / (num_roles + 1))


def num_cluster_gpus() -> int:
    """GPUs that Ray sees."""
    import ray

    return int(ray.cluster_resources().get("GPU", 0))


def shares_gpu(num_gpus: int, num_ranks: int, num_engines: int, gpus_per_engine: int) -> bool:
    """One engine and one rank take turns on the only GPU; everywhere else each has GPUs of its own."""
    return num_gpus == num_ranks == num_engines == gpus_per_engine == 1


async def way_between_nodes(config: WeightsConfig, learner_node: str, placements: Sequence[Any]) -> NodeCopies | None:
    """How weights come from the learner's node to those where engines were placed, tried once; None where it is one."""
    import ray

    nodes = [node_of(placement) for placement in placements]
    num_gpus = {node["NodeID"]: int(node["Resources"].get("GPU", 0)) for node in ray.nodes()}
    transport = way_of_weights(config.transport, learner_node, nodes, num_gpus)
    if transport == "shared_memory":
        return None
    copies = NodeCopies(transport, learner_node, start_courier, config.deadline_s)
    try:
        await copies.preflight(nodes)
    except BaseException:
        await copies.close()
        raise
    return copies


def leaves_the_gpu(learner: LearnerConfig) -> LearnerConfig:
    """The learner's config on a GPU that it leaves to an engine by turns: DeepSpeed moves nothing to the host at
    stage 0, nor in bfloat16 at stage 1; with one rank stage 2 computes the same."""
    return learner.model_copy(update={"zero_stage": max(2, learner.zero_stage)})


def beside_a_learner(engine: EngineConfig) -> EngineConfig:
    """The engine's config on a GPU that it shares with a learner rank."""
    share = min(engine.gpu_memory_utilization, SHARED_GPU_ENGINE_MEMORY)
    return engine.model_copy(update={"gpu_memory_utilization": share})


def cores_of_engine(index: int, num_engines: int, cores: Sequence[int] | None) -> str:
    """The cores that engine `index` binds its threads to on a CPU machine: a share of its own of `cores`, or of all
    where roles take turns (None); then one engine chooses itself."""
    if cores is None:
        if num_engines == 1:
            return "auto"
        cores = sorted(os.sched_getaffinity(0))
    return ",".join(map(str, share_of(cores, index, num_engines)))


def engine_seed(run_seed: int, index: int, weight_version: int) -> int:
    """Seed of an engine's own generator: engines draw different noise, and another one after a resume."""
    import numpy as np

    return int(np.random.SeedSequence([run_seed, index, weight_version]).generate_state(1)[0] >> 1)


def asks_for_gpus(config: ClusterConfig) -> bool:
    """Whether each engine and each rank wants GPUs."""
    return config.gpus == "always" or (config.gpus == "auto" and num_cluster_gpus() > 0)


def gpus_of_engine(engine: EngineConfig, cluster: ClusterConfig, share_gpu: bool) -> float:
    """What one engine asks Ray for."""
    if not asks_for_gpus(cluster):
        return 0.0
    return SHARED_GPU if share_gpu else float(engine.tensor_parallel_size)


async def place_engines(
    num_engines: int, cpus: float, num_gpus: float, deadline_s: float, labels: Mapping[str, str]
) -> list[Any]:
    """Room for each engine, on one node."""
    resources = {"CPU": cpus} | ({"GPU": num_gpus} if num_gpus else {})
    rooms = [
        asyncio.create_task(reserve(f"rollout worker {index}", resources, deadline_s, labels))
        for index in range(num_engines)
    ]
    try:
        return await asyncio.gather(*rooms)
    except BaseException:  # one without room: the others give theirs back
        for room in rooms:
            room.cancel()
        await asyncio.gather(*rooms, return_exceptions=True)
        release(room.result() for room in rooms if not room.cancelled() and room.exception() is None)
        raise


async def start_pool(
    model_path: str,
    engine: EngineConfig,
    num_engines: int,
    rewards: Sequence[RewardConfig],
    *,
    weight_backend: str | None,
    weight_version: int,
    seed: int,
    cpus: float,
    cluster: ClusterConfig,
    answer_deadline_s: float,
    share_gpu: bool = False,
    lora_rank: int = 0,
    cores: Sequence[int] | None = None,
    placements: Sequence[Any] = (),
) -> RolloutPool:
    """Rollout workers and a reward server, started side by side. `share_gpu`: with the learner (`shares_gpu`).
    `lora_rank`: of the adapters that weight updates bring; 0: they bring all weights. `cores`: of all engines on a CPU
    machine, where a learner computes beside them. `placements`: what `place_engines` gave, where it came first."""
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    num_gpus = gpus_of_engine(engine, cluster, share_gpu)
    placements = placements or await place_engines(
        num_engines, cpus, num_gpus, cluster.placement_deadline_s, cluster.labels.rollout
    )
    if share_gpu:
        engine = beside_a_learner(engine)

    async def start_worker(index: int) -> Any:
        """A worker that holds the weights of `model_path`, under the label `weight_version`."""
        worker: Any = (
            ray.remote(RolloutWorker)
            .options(
                num_cpus=cpus,
                num_gpus=num_gpus,
                max_concurrency=1000,
                scheduling_strategy=PlacementGroupSchedulingStrategy(placements[index]),
            )
            .remote(
                model_path,
                engine,
                weight_backend,
                weight_version,
                seed,
                engine_seed(seed, index, weight_version),
                cores_of_engine(index, num_engines, cores),
                share_gpu,
                lora_rank,
                cores is not None,
            )
        )
        try:
            await wait_for(
                worker.start.remote(),
                f"rollout worker {index} to start",
                engine.start_deadline_s + START_GRACE_S,
                setting="engine.start_deadline_s",
                error=RolloutError,
                report_s=math.inf,  # the worker reports its engine's start itself
            )
        except BaseException:
            ray.kill(worker)
            raise
        return worker

    starting = [asyncio.create_task(start_worker(index)) for index in range(num_engines)]
    try:
        reward_server, *workers = await asyncio.gather(start_reward_server(rewards, cluster), *starting)
    except BaseException:
        for task in starting:
            task.cancel()
        await asyncio.gather(*starting, return_exceptions=True)
        release(placements)
        raise
    # engines that are sent adapters serve nothing before they have some
    fleet = Fleet(workers, current=not lora_rank, start=start_worker, placements=placements)
    return RolloutPool(fleet, reward_server, answer_deadline_s, scores_apart=not all(map(is_quick, rewards)))


def gpus_of_rewards(rewards: Sequence[RewardConfig]) -> float:
    """What their server asks Ray for in a run on GPUs."""
    return sum(reward.num_gpus for reward in rewards if isinstance(reward, ModelConfig))


async def start_reward_server(
    rewards: Sequence[RewardConfig], cluster: ClusterConfig | None = None, num_gpus: float | None = None
) -> Any:
    """Handle of a reward server whose rewards are loaded. `num_gpus`: that it has for itself, and no others; None: as
    many as its rewards ask for."""
    import ray

    cluster = cluster or ClusterConfig()
    if num_gpus is None:
        num_gpus = gpus_of_rewards(rewards) if asks_for_gpus(cluster) else 0.0
    options: dict[str, Any] = {"num_cpus": 0, "num_gpus": num_gpus, "max_concurrency": 1000}
    options |= {"max_restarts": -1, "max_task_retries": RETRIES}
    if cluster.labels.reward:
        options["label_selector"] = cluster.labels.reward
    if not num_gpus and asks_for_gpus(cluster):
        options["runtime_env"] = {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}
    server: Any = ray.remote(RewardServer).options(**options).remote(list(rewards))
    names = ", ".join(reward.name for reward in rewards)
    try:
        await wait_for(
            server.ready.remote(),
            f"the rewards ({names}) to load",
            REWARD_SERVER_START_S + (cluster.placement_deadline_s if num_gpus or cluster.labels.reward else 0),
            error=RewardServerError,
        )
    except BaseException:
        ray.kill(server)
        raise
    return server
