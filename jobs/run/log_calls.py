"""Calls to the experience log's process: a deadline, and errors in its own words.

Given the awaitable answer of the log's actor; gives what it answered, or an `ExperienceError`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from raylign.actors.waiting import DeadlineError, cause_of, wait_for
from raylign.rollout.experience.types import ExperienceError

LOG_DEADLINE_S = 120.0
"""For a call that only reads or writes a line of its journal, or gives a disk time to sync."""


async def answer(call: Awaitable[Any], deadline_s: float = LOG_DEADLINE_S) -> Any:
    """What the log's process answers; its own words, or that it is gone or hangs, as an `ExperienceError`."""
    try:
        return await wait_for(call, "the experience log", deadline_s)
    except Exception as error:
        raise experience_error(error) from error


def outcome(call: asyncio.Future[Any]) -> Any:
    """What a call gave that somebody has waited for; one that is not done yet has had its time."""
    if not call.done():
        call.cancel()
        raise ExperienceError("the experience log's process does not answer; go on by --resume")
    try:
        return call.result()
    except Exception as error:
        raise experience_error(error) from error


def experience_error(error: Exception) -> Exception:
    """The log's own error, without Ray's around it; a mistake of the user's stays what it is."""
    root = cause_of(error)
    if isinstance(root, ValueError | ExperienceError):
        return root
    remedy = "; go on by --resume" if isinstance(root, DeadlineError) else ""
    return ExperienceError(f"{root}{remedy}")
