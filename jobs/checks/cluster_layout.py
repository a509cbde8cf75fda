"""Where the roles of a run will lie on a cluster that grows, found as Ray finds it.

Given node types and the roles of a `TrainConfig`; gives a GPU, or the memory of a host, for each, and what is missing
where somebody has no room. Ranks are packed first, each engine lies on one node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from raylign.actors.placement import described, labels_of
from raylign.jobs.checks.cluster_file import NodeType
from raylign.jobs.config.train import TrainConfig, generates_anything
from raylign.jobs.run.roles import gpus_of_rewards, shares_gpu


@dataclass(frozen=True)
class Role:
    """One process, or one engine over several GPUs."""

    name: str
    num_cpus: float
    num_gpus: float
    labels: Mapping[str, str]


@dataclass
class Node:
    """One node that would be started."""

    kind: NodeType
    number: int
    free_cpus: float
    free_gpus: list[float]
    """Of each GPU, the share that nobody has."""


@dataclass
class Device:
    """A GPU, or the memory of a host without one, and who lies there."""

    node: Node
    gpu: int | None
    roles: list[str] = field(default_factory=list)


@dataclass
class Layout:
    """Where everybody lies."""

    devices: list[Device] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def device(self, node: Node, gpu: int | None) -> Device:
        """The one record of it."""
        for each in self.devices:
            if each.node is node and each.gpu == gpu:
                return each
        self.devices.append(Device(node, gpu))
        return self.devices[-1]


def roles_of(config: TrainConfig, kinds: Sequence[NodeType]) -> list[Role]:
    """In the order in which a run places them."""
    labels, engine = config.cluster.labels, config.rollout.engine
    num_engines = config.rollout.num_engines if generates_anything(config) else 0
    total_gpus = sum(kind.most * kind.num_gpus for kind in kinds)
    on_gpu = config.cluster.gpus != "never" and total_gpus > 0
    share = shares_gpu(total_gpus, config.learner.num_ranks, num_engines, engine.tensor_parallel_size)
    each = 0.5 if share else 1.0
    total_cpus = sum(kind.most * kind.num_cpus for kind in kinds)
    cpus = min(1.0, total_cpus / (config.learner.num_ranks + num_engines + 1))
    rank_gpus, engine_gpus = (each, each * engine.tensor_parallel_size) if on_gpu else (0.0, 0.0)
    roles = [Role(f"learner rank {n}", cpus, rank_gpus, labels.learner) for n in range(config.learner.num_ranks)]
    roles += [Role(f"engine {n}", cpus, engine_gpus, labels.rollout) for n in range(num_engines)]
    if on_gpu and config.algorithm.needs_rollouts and (of_rewards := gpus_of_rewards(config.rewards)):
        roles.append(Role("reward server", 0.0, of_rewards, labels.reward))
    return roles


def lay_out(roles: Sequence[Role], kinds: Sequence[NodeType]) -> Layout:
    """Each on a node that is there, else on one more of the kind that holds the most such roles."""
    layout, nodes = Layout(), list[Node]()
    for role in roles:
        node = next((each for each in nodes if _holds(each, role)), None)
        if node is None:
            fresh = [_fresh(kind, nodes) for kind in kinds if kind.has(role.labels)]
            # a role without GPU leaves those of others alone
            able = [each for each in fresh if each is not None and _holds(each, role)]
            able.sort(key=lambda each: (bool(each.kind.num_gpus) and not role.num_gpus, -_times(each, role)))
            if not able:
                layout.missing.append(_why_nowhere(role, kinds, nodes))
                continue
            node = able[0]
            nodes.append(node)
        for gpu in _take(node, role):
            layout.device(node, gpu).roles.append(role.name)
    return layout


def _fresh(kind: NodeType, nodes: Sequence[Node]) -> Node | None:
    count = sum(each.kind is kind for each in nodes)
    return Node(kind, count, kind.num_cpus, [1.0] * kind.num_gpus) if count < kind.most else None


def _holds(node: Node, role: Role) -> bool:
    if not node.kind.has(role.labels) or node.free_cpus + 1e-9 < role.num_cpus:
        return False
    if role.num_gpus < 1:
        return role.num_gpus == 0 or any(free + 1e-9 >= role.num_gpus for free in node.free_gpus)
    return sum(free == 1.0 for free in node.free_gpus) >= role.num_gpus


def _times(node: Node, role: Role) -> float:
    """How many such roles an empty node holds."""
    by_cpu = node.free_cpus / role.num_cpus if role.num_cpus else float("inf")
    return min(by_cpu, len(node.free_gpus) / role.num_gpus) if role.num_gpus else by_cpu


def _take(node: Node, role: Role) -> list[int | None]:
    """The GPUs that it gets; None: the host's memory."""
    node.free_cpus -= role.num_cpus
    if not role.num_gpus:
        return [None]
    if role.num_gpus < 1:
        index = next(n for n, free in enumerate(node.free_gpus) if free + 1e-9 >= role.num_gpus)
        node.free_gpus[index] -= role.num_gpus
        return [index]
    whole = [n for n, free in enumerate(node.free_gpus) if free == 1.0][: int(role.num_gpus)]
    for index in whole:
        node.free_gpus[index] = 0.0
    return list(whole)


def _why_nowhere(role: Role, kinds: Sequence[NodeType], nodes: Sequence[Node]) -> str:
    """Which resource is missing, and what the file has."""
    wanted = described({"CPU": role.num_cpus} | ({"GPU": role.num_gpus} if role.num_gpus else {}))
    on = f" with {labels_of(role.labels)}" if role.labels else ""
    able = [kind for kind in kinds if kind.has(role.labels)]
    places = [each for each in nodes if each.kind in able]
    places += [fresh for kind in able if (fresh := _fresh(kind, nodes)) is not None]
    without_cpus = Role(role.name, 0.0, role.num_gpus, role.labels)
    short = "GPU" if not any(_holds(each, without_cpus) for each in places) else "CPU"
    if not able:
        short = f"nodes{on}: no node type has these labels"
    there = "; ".join(
        f"{kind.name}: at most {kind.most} of {described({'CPU': kind.num_cpus, 'GPU': kind.num_gpus})}"
        + (f" ({labels_of(kind.labels)})" if kind.labels else "")
        + (f", {count} full" if (count := sum(each.kind is kind for each in nodes)) else "")
        for kind in kinds
    )
    return f"{role.name}: no room: it needs {wanted} on one node{on}; short of {short}. The file has {there}"
