"""One way to call an object, be it a Ray actor or an object of this process: `await handle.verb.remote(...)`.

Given a plain object, `LocalHandle` gives what a Ray actor handle gives; `kill` ends the process behind either.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


class LocalHandle:
    """A plain object addressed like an actor."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, verb: str) -> LocalMethod:
        return LocalMethod(getattr(self._target, verb))


class LocalMethod:
    """One verb of a `LocalHandle`."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self._method = method

    async def remote(self, *arguments: Any) -> Any:
        """Call it; await the result. Like Ray's, it takes the pending result of another call as an argument."""
        ready = [await argument if inspect.isawaitable(argument) else argument for argument in arguments]
        result = self._method(*ready)
        return await result if inspect.isawaitable(result) else result


def kill(handle: Any) -> None:
    """End the actor's process at once; an object of this process has none of its own."""
    if not isinstance(handle, LocalHandle):
        import ray

        ray.kill(handle)
