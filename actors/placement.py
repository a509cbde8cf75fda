"""Room in the cluster for one replica of a role.

Given the resources of a replica and the labels of its nodes, gives a placement group that holds them, as soon as the
cluster has such a node. One group per replica, since a group cannot grow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import uuid4

from pydantic import BaseModel

from raylign.actors.waiting import DeadlineError, wait_for

SETTING = "cluster.placement_deadline_s"


class PlacementError(RuntimeError):
    """The cluster has no room for a role; the message names the missing resource."""


class RoleLabels(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """Nodes of each role, by Ray's node labels; empty: any."""

    learner: dict[str, str] = {}
    """Of the ranks, such as {market-type: on-demand}."""
    rollout: dict[str, str] = {}
    """Of the engines."""
    reward: dict[str, str] = {}
    """Of the reward servers."""


async def reserve(
    role: str, resources: dict[str, float], deadline_s: float, labels: Mapping[str, str] | None = None
) -> Any:
    """A ready placement group with one bundle of `resources`, so on one node; says what it waits for every 30 s."""
    import ray
    from ray.util.placement_group import placement_group

    selector = [dict(labels)] if labels else None
    name = f"{role} ({uuid4().hex[:8]})"  # Ray refuses a name twice, and a cluster may serve several runs
    group = placement_group([resources], strategy="STRICT_PACK", name=name, bundle_label_selector=selector)

    def shortage() -> str:
        return f"short of {missing_resources(resources, ray.available_resources())}"

    try:
        await wait_for(group.ready(), f"room for {role}", max(0.0, deadline_s), state=shortage)
    except DeadlineError:
        release([group])
        raise no_room(role, resources, labels) from None
    except BaseException:
        release([group])
        raise
    return group


def release(groups: Iterable[Any]) -> None:
    """Give the room back, also what was given back before."""
    from ray.util.placement_group import remove_placement_group

    for group in groups:
        remove_placement_group(group)


def on_this_node() -> Any:
    """Scheduling of an actor that is to live and die with this process's node, whatever becomes of others."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def no_room(role: str, resources: Mapping[str, float], labels: Mapping[str, str] | None) -> PlacementError:
    """With what was asked for, and what is there."""
    import ray

    wanted = described(resources) + (f" on nodes with {labels_of(labels)}" if labels else "")
    short = missing_resources(resources, ray.available_resources())
    there = Counter(
        (described(node["Resources"]) or "nothing") + (f" ({words})" if (words := labels_of(node["Labels"])) else "")
        for node in ray.nodes()
        if node["Alive"]
    )
    nodes = "; ".join(f"{count} x {words}" for words, count in there.items())
    return PlacementError(
        f"no room for {role} in time ({SETTING}): it needs {wanted}; short of {short}. Nodes that are there: {nodes}. "
        "Lower the number of engines or ranks, or add nodes."
    )


def described(resources: Mapping[str, float]) -> str:
    """`CPU 2, GPU 1`, without what Ray adds for itself."""
    shown = {name: amount for name, amount in sorted(resources.items()) if name in ("CPU", "GPU")}
    return ", ".join(f"{name} {amount:g}" for name, amount in shown.items())


def labels_of(labels: Mapping[str, str]) -> str:
    """`market-type: spot`, without those that Ray gives every node."""
    return ", ".join(f"{key}: {value}" for key, value in sorted(labels.items()) if not key.startswith("ray.io/"))


def node_of(group: Any) -> str:
    """Where the one bundle of a ready placement group lies."""
    from ray.util import placement_group_table

    node: str = placement_group_table(group)["bundles_to_node_id"][0]
    return node


def missing_resources(wanted: Mapping[str, float], available: Mapping[str, float]) -> str:
    """`CPU (wants 2, free 0.5)` for each resource that is short."""
    short = [
        f"{name} (wants {amount:g}, free {available.get(name, 0.0):g})"
        for name, amount in wanted.items()
        if available.get(name, 0.0) < amount
    ]
    return ", ".join(short) or "nothing on any single node big enough"
