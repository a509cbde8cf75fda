"""Nodes that are about to be taken away: their engines get nothing new, and hand back what they have before that.

Given the fleet; gives nothing back. An engine on such a node finishes what it has where there is time, and counts as
lost `MARGIN_S` before its node goes, or as soon as nobody uses it; the fleet starts another, where there is room.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakKeyDictionary

from raylign.actors.fleet import Engine, Fleet
from raylign.actors.waiting import SIGN_OF_LIFE_S, wait_for

LOOK_EVERY_S = 2.0
MARGIN_S = 10.0
"""Before the node goes: prompts that are handed back later might go with it."""
GCS_DEADLINE_S = 10.0


def draining_nodes() -> dict[str, float]:
    """Nodes that Ray was told to drain, and seconds until each is taken away; infinite where nobody said when."""
    import ray
    from ray import _raylet

    module: Any = _raylet  # without types; Ray Serve asks the same
    head = module.GcsClient(address=ray.get_runtime_context().gcs_address)
    told: dict[str, int] = head.get_draining_nodes(timeout=GCS_DEADLINE_S)
    return {node: deadline_ms / 1e3 - time.time() if deadline_ms else math.inf for node, deadline_ms in told.items()}


async def heed_drains(fleet: Fleet, draining: Callable[[], Awaitable[dict[str, float]]]) -> None:
    """Until cancelled."""
    nodes: WeakKeyDictionary[Engine, str] = WeakKeyDictionary()
    while True:
        try:
            left_s = await draining()
        except Exception as error:  # the head is busy, or on its way back
            print(f"Ray does not say which nodes are drained: {error}", flush=True)
            left_s = {}
        for engine in fleet.engines if left_s else []:
            if engine not in nodes:
                try:
                    asking = engine.handle.node.remote()
                    nodes[engine] = await wait_for(asking, f"rollout worker {engine.number}", SIGN_OF_LIFE_S)
                except Exception:  # whoever uses it learns of its death
                    continue
            if nodes[engine] in left_s:
                _take_off(fleet, engine, left_s[nodes[engine]])
        await asyncio.sleep(LOOK_EVERY_S)


def _take_off(fleet: Fleet, engine: Engine, left_s: float) -> None:
    name = f"rollout worker {engine.number}"
    if not engine.is_draining:
        engine.is_draining = True
        when = "" if math.isinf(left_s) else f" in {left_s:.0f} s"
        print(f"the node of {name} is to be taken away{when}: it gets no more prompts", flush=True)
    if left_s < MARGIN_S or not fleet.is_used(engine):
        fleet.mark_lost(engine, f"{name} hands back what it has, before its node is taken away")
