"""Waiting for another process: with a deadline, saying what is waited for, and with the words of whoever failed.

Given an awaitable and what it is; gives its result, or raises what it raised, without Ray's wrapping, or an error of
the caller's type at the deadline.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
REPORT_S = 30.0
POLL_S = 20.0
"""How long an actor with nothing to tell may hold a call back; below `REPORT_S`, or idleness would be reported."""
SIGN_OF_LIFE_S = 120.0
"""A process that lets a call of `POLL_S` wait for so long is taken for dead."""


class DeadlineError(TimeoutError):
    """Nothing came within the deadline."""


async def wait_for(
    call: Awaitable[T],
    what: str,
    deadline_s: float,
    *,
    setting: str = "",
    error: Callable[[str], Exception] = DeadlineError,
    state: Callable[[], str] | None = None,
    report_s: float = REPORT_S,
) -> T:
    """`await call`, as `asyncio.wait_for`; every `report_s` a line says that `what` is waited for. `setting`: the
    deadline's key; `error`: what is raised at it, from a message; `state`: where things stand, for the lines."""
    task = asyncio.ensure_future(call)
    waited_s = 0.0
    try:
        while True:
            round_s = min(report_s, deadline_s - waited_s)
            await asyncio.wait({task}, timeout=round_s)
            if task.done():
                break
            waited_s += round_s
            standing = f": {state()}" if state else ""
            if waited_s >= deadline_s:
                remedy = f" ({setting})" if setting else ""
                raise error(f"no answer within {deadline_s:g} s from {what}{standing}{remedy}")
            print(f"waiting for {what} since {waited_s:.0f} s{standing}", flush=True)
    finally:
        task.cancel()  # no effect where it is done
    try:
        return task.result()
    except Exception as wrapped:
        cause = cause_of(wrapped)
        if cause is wrapped:
            raise
        raise cause from wrapped  # whose text is the traceback in the other process


def cause_of(error: BaseException) -> BaseException:
    """What was raised, where Ray has wrapped it: once for each actor that it came through."""
    exceptions = sys.modules.get("ray.exceptions")  # not imported: then no actor was asked
    while exceptions is not None and isinstance(error, exceptions.RayTaskError):
        error = error.cause
    return error


async def happens(event: asyncio.Event, within_s: float) -> bool:
    """Whether the event is set within the time."""
    try:
        async with asyncio.timeout(within_s):
            await event.wait()
    except TimeoutError:
        return False
    return True
