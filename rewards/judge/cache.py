"""Replies of a judge on disk, so that nothing is asked and paid for twice.

Given a folder and all that a reply depends on (model, question with both answers in their order, sampling); gives the
reply that was kept, or keeps one. Several processes may share the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from raylign.rewards.judge.config import JudgeConfig
from raylign.rewards.judge.prompt import read_scores


class JudgeCache:
    """A file for each question. Only replies that can be read are kept."""

    def __init__(self, config: JudgeConfig) -> None:
        self._folder = config.cache
        self._asked = [config.model, config.temperature, config.top_p, config.max_tokens]

    def find(self, question: str) -> str | None:
        """The reply to it; None where there is none, or a damaged one, which will be written anew."""
        place = self._place(question)
        if place is None or not place.is_file():
            return None
        try:
            reply = str(json.loads(place.read_text(encoding="utf-8"))["reply"])
            read_scores(reply)
        except (ValueError, LookupError, TypeError):
            return None
        return reply

    def keep(self, question: str, reply: str) -> None:
        """All of it or nothing."""
        place = self._place(question)
        if place is None:
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(f".{place.stem}-{os.getpid()}")
        record = {"model": self._asked[0], "question": question, "reply": reply}
        temporary.write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")
        temporary.replace(place)

    def _place(self, question: str) -> Path | None:
        if self._folder is None:
            return None
        key = hashlib.blake2b(json.dumps([*self._asked, question]).encode(), digest_size=16).hexdigest()
        return self._folder / key[:2] / f"{key}.json"
