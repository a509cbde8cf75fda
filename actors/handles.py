"""One way to call an object, be it a Ray actor or an object of this process: `await handle.verb.remote(...)`.

Given a plain object with async verbs, `LocalHandle` gives what a Ray actor handle gives.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any


class LocalHandle:
    """A plain object addressed like an actor."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, verb: str) -> LocalMethod:
        return LocalMethod(getattr(self._target, verb))


class LocalMethod:
    """One verb of a `LocalHandle`."""

    def __init__(self, method: Callable[..., Awaitable[Any]]) -> None:
        self._method = method

    def remote(self, *arguments: Any) -> Awaitable[Any]:
        """Call it; await the result."""
        return self._method(*arguments)
