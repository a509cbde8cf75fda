"""One way to call an object, be it a Ray actor or an object of this process: `await handle.verb.remote(...)`.

Given a plain object, `LocalHandle` gives what a Ray actor handle gives; `kill` ends the process behind either.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


class KilledError(RuntimeError):
    """A call of an object whose handle was killed; Ray's is `ActorDiedError`."""


class LocalHandle:
    """A plain object addressed like an actor."""

    def __init__(self, target: Any) -> None:
        self._target = target
        self.is_killed = False

    def __getattr__(self, verb: str) -> LocalMethod:
        return LocalMethod(self, getattr(self._target, verb))


class LocalMethod:
    """One verb of a `LocalHandle`."""

    def __init__(self, handle: LocalHandle, method: Callable[..., Any]) -> None:
        self._handle, self._method = handle, method

    async def remote(self, *arguments: Any) -> Any:
        """Call it; await the result. Like Ray's, it takes the pending result of another call as an argument."""
        if self._handle.is_killed:
            raise KilledError(f"`{self._method.__name__}` was called on an actor that was killed")
        ready = [await argument if inspect.isawaitable(argument) else argument for argument in arguments]
        result = self._method(*ready)
        return await result if inspect.isawaitable(result) else result


def start_again(handle: Any) -> None:
    """End the actor's process, which does not answer; Ray starts another in its place and repeats what was asked."""
    import ray

    ray.kill(handle, no_restart=False)


def kill(handle: Any) -> None:
    """End the actor's process at once; an object of this process has none, but answers no more calls."""
    if isinstance(handle, LocalHandle):
        handle.is_killed = True
        return
    import ray

    ray.kill(handle)
