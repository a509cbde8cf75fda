"""What a chat endpoint gives: replies, typed failures, and the errors that end the whole job.

Given nothing; gives the values that `ChatClient.ask` speaks in. A failure belongs to one question and is counted; a
cost limit that is reached ends the work of all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ChatFailureKind = Literal["timeout", "unreachable", "rate_limited", "unreadable", "refused"]


class UnreadableReply(ValueError):
    """A reply that is not what was asked for; another try may give a readable one."""


class CostLimitReached(ValueError):
    """The next call could cost more than is left of `max_cost`."""


@dataclass(frozen=True)
class Reply:
    """One reply."""

    text: str
    from_cache: bool


@dataclass(frozen=True)
class ChatFailure:
    """Why a question has no reply."""

    kind: ChatFailureKind
    message: str
