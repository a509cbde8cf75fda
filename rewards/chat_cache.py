"""Replies of chat models on disk, so that nothing is asked and paid for twice.

Given a folder and all that a reply depends on (model, messages, sampling, number of the sample); gives the text that
was kept, or keeps one. Several processes may share the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Message = Mapping[str, str]


@dataclass(frozen=True)
class ChatRequest:
    """One question with its sampling."""

    model: str
    messages: Sequence[Message]
    temperature: float
    top_p: float
    max_tokens: int
    num_replies: int = 1
    sample: str | int | None = None
    """Tells equal questions apart that want replies of their own."""

    @property
    def question(self) -> str:
        """What the user said last."""
        return self.messages[-1]["content"]

    def key(self, index: int) -> str:
        """Of the reply `index`. What is not set is left out: a question of one message has the key it always had."""
        parts: list[Any] = [self.model, self.temperature, self.top_p, self.max_tokens, self.question]
        roles = [message["role"] for message in self.messages]
        more: dict[str, Any] = {}
        if roles == ["system", "user"]:
            more["system"] = self.messages[0]["content"]
        elif roles != ["user"]:
            more["messages"] = [dict(message) for message in self.messages]
        if self.num_replies > 1:
            more |= {"n": self.num_replies, "index": index}
        if self.sample is not None:
            more["sample"] = self.sample
        text = json.dumps([*parts, more] if more else parts)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class ChatCache:
    """A file for each reply. Only replies that were accepted are kept."""

    def __init__(self, folder: Path | None) -> None:
        """None: nothing is kept."""
        self._folder = folder

    def find(self, request: ChatRequest, index: int, accept: Callable[[str], object] | None) -> str | None:
        """The text; None where there is none, or a damaged or unreadable one, which will be written anew."""
        place = self._place(request, index)
        if place is None or not place.is_file():
            return None
        try:
            reply = str(json.loads(place.read_text(encoding="utf-8"))["reply"])
            if accept is not None:
                accept(reply)
        except (ValueError, LookupError, TypeError):
            return None
        return reply

    def keep(self, request: ChatRequest, index: int, reply: str) -> None:
        """All of it or nothing."""
        place = self._place(request, index)
        if place is None:
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(f".{place.stem}-{os.getpid()}")
        record = {"model": request.model, "question": request.question, "reply": reply}
        temporary.write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8", errors="backslashreplace")
        temporary.replace(place)

    def _place(self, request: ChatRequest, index: int) -> Path | None:
        if self._folder is None:
            return None
        key = request.key(index)
        return self._folder / key[:2] / f"{key}.json"
