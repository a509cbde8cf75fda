"""Room in the cluster for one replica of a role.

Given the resources of a replica, gives a placement group that holds them. One group per replica, since a group cannot
grow.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any


class PlacementError(RuntimeError):
    """The cluster has no room for a role; the message names the missing resource."""


async def reserve(role: str, resources: dict[str, float], deadline_s: float) -> Any:
    """A ready placement group with one bundle of `resources`; says what it waits for every 30 s."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    group = placement_group([resources], strategy="PACK", name=role)
    ready = asyncio.ensure_future(group.ready())
    start = time.monotonic()
    while True:
        left = deadline_s - (time.monotonic() - start)
        done, _ = await asyncio.wait({ready}, timeout=max(0.0, min(30.0, left)))
        if done:
            return group
        shortage = missing_resources(resources, ray.available_resources())
        if time.monotonic() - start >= deadline_s:
            remove_placement_group(group)
            raise PlacementError(
                f"no room for {role} within {deadline_s:.0f} s: it needs {resources}; short of {shortage}. "
                f"The cluster has {ray.cluster_resources()}. Lower the number of engines or ranks, or add nodes."
            )
        print(f"still waiting for room for {role}: short of {shortage}", flush=True)


def missing_resources(wanted: dict[str, float], available: dict[str, float]) -> str:
    """`CPU (wants 2, free 0.5)` for each resource that is short."""
    short = [
        f"{name} (wants {amount:g}, free {available.get(name, 0.0):g})"
        for name, amount in wanted.items()
        if available.get(name, 0.0) < amount
    ]
    return ", ".join(short) or "nothing on any single node big enough"
