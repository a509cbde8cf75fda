"""One call of a weight update, awaited with a deadline.

Given whom it asks and the awaitable answer; gives the answer, or a `WeightUpdateError` that says on which side, in
which phase and at which bucket it failed, and whether that side is dead. One that lets the deadline pass is:
asked again, it would only be waited for again.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable
from functools import partial
from typing import Any

from raylign.actors.handles import KilledError
from raylign.actors.waiting import wait_for
from raylign.actors.weights.update import Phase, WeightUpdateError
from raylign.rollout.engine.base import EngineDiedError


async def answer_of(side: str, answer: Awaitable[Any], phase: Phase, version: int, deadline_s: float) -> Any:
    """The answer of `learner` or `engine N`."""

    def failed(cause: str, bucket: int | None = None, died: bool = False) -> WeightUpdateError:
        return WeightUpdateError(side, phase, version, bucket, cause, died)

    what = f"{side} in {phase} of version {version}"
    try:
        return await wait_for(answer, what, deadline_s, setting="weights.deadline_s", error=partial(failed, died=True))
    except WeightUpdateError:
        raise
    except Exception as error:  # whatever it is, the transaction must abort and both sides must learn why
        cause = f"{type(error).__name__}: {error}"
        raise failed(cause, getattr(error, "bucket", None), is_death(error)) from error


def is_death(error: Exception) -> bool:
    """Whether an error means that the engine's process or its actor is no more."""
    if isinstance(error, EngineDiedError | KilledError):
        return True
    exceptions = sys.modules.get("ray.exceptions")  # not imported: then no actor was asked
    return exceptions is not None and isinstance(error, exceptions.RayActorError)
