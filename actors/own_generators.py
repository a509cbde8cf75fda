"""Imported first in the warm process: what its imports draw at random comes from the operating system.

Ray names actor classes at random when they are defined. Its own generator would be seeded by that, and every copy of the
process would draw the same numbers from it afterwards: two processes with one id.
"""

from __future__ import annotations

import gc
import os
import signal
from typing import Any

import ray.actor
from ray._raylet import ActorClassID

gc.disable()  # nothing that is imported is garbage
signal.signal(signal.SIGINT, signal.SIG_IGN)


class _FromSystem:
    """`ActorClassID` as far as `ray.actor` uses it."""

    @staticmethod
    def from_random() -> Any:
        return ActorClassID(os.urandom(ActorClassID.size()))

    def __new__(cls, *arguments: Any) -> Any:
        return ActorClassID(*arguments)


ray.actor.ActorClassID = _FromSystem
