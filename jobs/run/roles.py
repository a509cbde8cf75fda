"""Starting the roles of a run as Ray actors: rollout workers and the reward server.

Given configs and the cluster's resources; gives a `RolloutPool`, ready. On CPU machines a role asks for a share of
the cores, so that all roles fit where they take turns; on GPUs each engine and each rank holds its own,
but for the only GPU of a machine, which one engine and one rank share.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from raylign.actors.cluster import ClusterConfig
from raylign.actors.elastic_fleet import ElasticFleet
from raylign.actors.placement import node_of, release, reserve
from raylign.actors.reward_server import RETRIES, RewardServer
from raylign.actors.rollout_errors import RewardServerError
from raylign.actors.rollout_pool import RolloutPool
from raylign.actors.waiting import wait_for
from raylign.actors.weights.config import WeightsConfig
from raylign.actors.weights.node_copies import NodeCopies, start_courier
from raylign.actors.weights.transport import way_of_weights
from raylign.jobs.run.workers import Workers
from raylign.learners.engines.config import LearnerConfig
from raylign.rewards.model_place import ModelConfig
from raylign.rewards.registry import RewardConfig, is_quick
from raylign.rollout.engine.config import EngineConfig

REWARD_SERVER_START_S = 120.0
SHARED_GPU = 0.5
"""Of the only GPU, what engine and learner rank each ask Ray for."""
SHARED_GPU_ENGINE_MEMORY = 0.4
"""Of the only GPU's memory, what the engine may take at most beside a learner rank."""


def cpus_for_each_role(num_roles: int) -> float:
    """CPUs that one role asks Ray for: a whole one where there are enough or all are still to come, else an equal
    share with some left over."""
    import ray

    return min(1.0, ray.cluster_resources().get("CPU", math.inf) / (num_roles + 1))


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

    num_gpus = {node["NodeID"]: int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]}
    # an engine whose node was lost is not placed until another has room
    nodes = [node for placement in placements if (node := node_of(placement)) in num_gpus]
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
    """The learner's config on a GPU that it leaves to an engine by turns: ZeRO stage 2, the only one at which DeepSpeed
    moves any optimizer to the host in both precisions; with its one rank all stages compute the same."""
    return learner.model_copy(update={"zero_stage": 2})


def beside_a_learner(engine: EngineConfig) -> EngineConfig:
    """The engine's config on a GPU that it shares with a learner rank."""
    share = min(engine.gpu_memory_utilization, SHARED_GPU_ENGINE_MEMORY)
    return engine.model_copy(update={"gpu_memory_utilization": share})


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
    rooms: dict[int, Any] | None = None,
    on_new_room: Callable[[Any], Awaitable[None]] | None = None,
) -> RolloutPool:
    """Rollout workers and a reward server, started side by side. `share_gpu`: with the learner (`shares_gpu`).
    `lora_rank`: of the adapters that weight updates bring; 0: they bring all weights. `cores`: of all engines on a CPU
    machine, where a learner computes beside them. `rooms`: by number, what `place_engines` gave where it came first;
    kept up to date.
    `on_new_room`: see `Workers`."""
    num_gpus = gpus_of_engine(engine, cluster, share_gpu)
    rooms = {} if rooms is None else rooms
    if not rooms:
        placements = await place_engines(
            num_engines, cpus, num_gpus, cluster.placement_deadline_s, cluster.labels.rollout
        )
        rooms |= enumerate(placements)
    workers = Workers(
        model_path=model_path,
        engine=beside_a_learner(engine) if share_gpu else engine,
        num_engines=num_engines,
        cluster=cluster,
        cpus=cpus,
        num_gpus=num_gpus,
        weight_backend=weight_backend,
        weight_version=weight_version,
        seed=seed,
        share_gpu=share_gpu,
        lora_rank=lora_rank,
        cores=cores,
        rooms=rooms,
        on_new_room=on_new_room,
    )
    starting = [asyncio.create_task(workers.start(number)) for number in range(num_engines)]
    try:
        reward_server, *handles = await asyncio.gather(start_reward_server(rewards, cluster), *starting)
    except BaseException:
        for task in starting:
            task.cancel()
        await asyncio.gather(*starting, return_exceptions=True)
        release(rooms.values())
        rooms.clear()
        raise
    # engines that are sent adapters serve nothing before they have some
    fleet = ElasticFleet(handles, current=not lora_rank, start=workers.start, give_back=workers.give_back)
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
