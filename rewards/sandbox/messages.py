"""What goes between a reward's process and its parent: frames of a length and that many bytes.

Given scores, gives JSON of numbers and strings, and from JSON scores again, every part checked: the process runs
code that nobody vouches for, so its replies are data. Never a pickle, which would run in the parent.
"""

from __future__ import annotations

import json
import math
import socket
import struct
from collections.abc import Sequence
from typing import Any, cast, get_args

from raylign.rewards.base import FailureKind, Graded, RewardFailure, Score

MAX_REPLY_BYTES = 16 * 2**20
MAX_MESSAGE_CHARACTERS = 2000
MAX_PARTS = 64
"""Further numbers of one score."""
_LENGTH = struct.Struct("!Q")
_CHUNK_BYTES = 1 << 16


class BadReply(ValueError):
    """The other side sent what is no reply; the message says why."""


def send_frame(channel: socket.socket, payload: bytes) -> None:
    channel.sendall(_LENGTH.pack(len(payload)) + payload)


def receive_frame(channel: socket.socket) -> bytes:
    """The next frame from a side that is trusted. EOFError when it has closed."""
    (length,) = _LENGTH.unpack(_receive_exactly(channel, _LENGTH.size))
    return _receive_exactly(channel, length)


def _receive_exactly(channel: socket.socket, num_bytes: int) -> bytes:
    received = bytearray()
    while len(received) < num_bytes:
        part = channel.recv(min(num_bytes - len(received), 1 << 20))
        if not part:
            raise EOFError
        received += part
    return bytes(received)


class ReplyReader:
    """Collects frames from a side that is not trusted: never waits, and never holds more than one reply."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._received = bytearray()

    def read(self) -> Any:
        """The next reply once it is whole, else None. EOFError at the end, BadReply for what is none."""
        while (reply := self._whole()) is None:
            try:
                part = self._channel.recv(_CHUNK_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
            if not part:
                raise EOFError
            self._received += part
        return reply

    def _whole(self) -> Any:
        if len(self._received) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._received)
        if length > MAX_REPLY_BYTES:
            raise BadReply(f"a reply says that it has {length:,} bytes, more than {MAX_REPLY_BYTES:,}")
        end = _LENGTH.size + length
        if len(self._received) < end:
            return None
        payload = bytes(self._received[_LENGTH.size : end])
        del self._received[:end]
        try:
            return json.loads(payload)
        except (ValueError, RecursionError):
            raise BadReply(f"a reply of {length:,} bytes is no JSON: {payload[:40]!r}") from None


def scores_to_data(scores: Sequence[Score]) -> list[Any]:
    return [_score_to_data(score) for score in scores]


def _score_to_data(score: Score) -> Any:
    if isinstance(score, RewardFailure):
        return {"kind": score.kind, "message": score.message[:MAX_MESSAGE_CHARACTERS]}
    if isinstance(score, Graded):
        return {"score": float(score), "parts": score.parts}
    return score


def scores_from_data(data: object, num_completions: int) -> list[Score]:
    """The scores of one unit; BadReply unless there is one finite number or known failure for each completion."""
    if not isinstance(data, list) or len(data) != num_completions:
        raise BadReply(f"a reply has no list of {num_completions} scores")
    return [_score_from_data(value) for value in data]


def _score_from_data(value: object) -> Score:
    if isinstance(value, dict) and "parts" in value:
        score, parts = _score_from_data(value.get("score")), value["parts"]
        if not isinstance(score, RewardFailure) and isinstance(parts, dict) and len(parts) <= MAX_PARTS:
            return Graded.of(score, parts)
    elif isinstance(value, dict):
        kind, message = value.get("kind"), value.get("message")
        if kind in get_args(FailureKind) and isinstance(message, str):
            return RewardFailure(cast(FailureKind, kind), message[:MAX_MESSAGE_CHARACTERS])
    elif isinstance(value, int | float) and not isinstance(value, bool):
        try:
            score = float(value)
        except OverflowError:
            score = math.inf
        if math.isfinite(score):
            return score
    raise BadReply(f"a score in a reply is neither a finite number nor a failure: {str(value)[:80]!r}")
