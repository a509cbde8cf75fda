"""Room in the cluster for one replica of a role.

Given the resources of a replica, gives a placement group that holds them. One group per replica, since a group cannot
grow.
"""

from __future__ import annotations

from typing import Any

from raylign.actors.waiting import DeadlineError, wait_for


class PlacementError(RuntimeError):
    """The cluster has no room for a role; the message names the missing resource."""


async def reserve(role: str, resources: dict[str, float], deadline_s: float) -> Any:
    """A ready placement group with one bundle of `resources`; says what it waits for every 30 s."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    group = placement_group([resources], strategy="PACK", name=role)

    def shortage() -> str:
        return f"short of {missing_resources(resources, ray.available_resources())}"

    try:
        await wait_for(group.ready(), f"room for {role}", deadline_s, state=shortage)
    except DeadlineError:
        remove_placement_group(group)
        raise PlacementError(
            f"no room for {role} within {deadline_s:.0f} s: it needs {resources}; {shortage()}. The cluster has "
            f"{ray.cluster_resources()}. Lower the number of engines or ranks, or add nodes."
        ) from None
    return group


def node_of(group: Any) -> str:
    """Where the one bundle of a ready placement group lies."""
    from ray.util import placement_group_table

    node: str = placement_group_table(group)["bundles_to_node_id"][0]
    return node


def missing_resources(wanted: dict[str, float], available: dict[str, float]) -> str:
    """`CPU (wants 2, free 0.5)` for each resource that is short."""
    short = [
        f"{name} (wants {amount:g}, free {available.get(name, 0.0):g})"
        for name, amount in wanted.items()
        if available.get(name, 0.0) < amount
    ]
    return ", ".join(short) or "nothing on any single node big enough"
