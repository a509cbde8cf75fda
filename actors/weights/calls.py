"""One call of a weight update, awaited with a deadline.

Given whom it asks and the awaitable answer; gives the answer, or a `WeightUpdateError` that says on which side, in
which phase and at which bucket it failed, and whether that side is dead.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from typing import Any

from raylign.actors.weights.update import Phase, WeightUpdateError
from raylign.rollout.engine.base import EngineDiedError

REPORT_S = 30.0


async def answer_of(side: str, answer: Awaitable[Any], phase: Phase, version: int, deadline_s: float) -> Any:
    """Await; a wait over 30 s says what it waits for."""
    task = asyncio.ensure_future(answer)
    waited_s = 0.0
    while not (await asyncio.wait({task}, timeout=min(REPORT_S, deadline_s - waited_s)))[0]:
        waited_s += min(REPORT_S, deadline_s - waited_s)
        if waited_s >= deadline_s:
            task.cancel()
            cause = f"no answer within {deadline_s:g} s (weights.deadline_s)"
            raise WeightUpdateError(side, phase, version, None, cause)
        print(f"waiting for {side} in {phase} of version {version} since {waited_s:.0f} s", flush=True)
    try:
        return task.result()
    except Exception as error:  # whatever it is, the transaction must abort and both sides must learn why
        root = getattr(error, "cause", None) or error  # Ray wraps what an actor raised
        if isinstance(root, WeightUpdateError):
            raise root from None
        cause = f"{type(root).__name__}: {root}"
        bucket = getattr(root, "bucket", None)
        raise WeightUpdateError(side, phase, version, bucket, cause, died=says_died(error, root)) from error


def says_died(error: Exception, root: Any) -> bool:
    """Whether an error means that the engine's process or its actor is no more."""
    if isinstance(root, EngineDiedError):
        return True
    exceptions = sys.modules.get("ray.exceptions")  # not imported: then no actor was asked
    return exceptions is not None and isinstance(error, exceptions.RayActorError)
