"""One way to call an object, whether it is a Ray actor or lives in this process: `handle.verb.remote(...)`, awaited.

Given a plain object with async verbs, `LocalHandle` gives what a Ray actor handle gives. Tests and one-process runs use it.
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
