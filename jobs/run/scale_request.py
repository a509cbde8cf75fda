"""What `raylign scale` asks of a live run, and what the run answers: two small files in the run folder.

Given the folder; writes a request or an answer whole or not at all, so any machine that sees the folder may ask. The
last request counts. Both files go with the next start of the run.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

REQUEST, ANSWER = ".scale-request.json", ".scale-answer.json"
MOST_BYTES = 4096
MOST_ENGINES = 100_000


@dataclass(frozen=True)
class ScaleRequest:
    """So many engines, please."""

    request_id: str
    num_engines: int


@dataclass(frozen=True)
class ScaleAnswer:
    """Of the run to one request."""

    request_id: str
    state: Literal["under way", "done", "failed", "refused"]
    """failed: some engines could not join; the run goes on with those that it has."""
    message: str


def ask(folder: Path, num_engines: int) -> ScaleRequest:
    """Leave a request."""
    request = ScaleRequest(uuid4().hex, num_engines)
    _write(folder / REQUEST, asdict(request))
    return request


def read_request(folder: Path) -> ScaleRequest | None:
    """The last one; None where there is none, or none that this version wrote."""
    match _read(folder / REQUEST):
        case {"request_id": str(request_id), "num_engines": int(number)} if abs(number) <= MOST_ENGINES:
            return ScaleRequest(request_id, number)
    return None


def answer(folder: Path, said: ScaleAnswer) -> None:
    """Leave an answer, in the place of the one before."""
    _write(folder / ANSWER, asdict(said))


def read_answer(folder: Path, request: ScaleRequest) -> ScaleAnswer | None:
    """That to this request."""
    match _read(folder / ANSWER):
        case {
            "request_id": str(request_id),
            "state": "under way" | "done" | "failed" | "refused" as state,
            "message": str(message),
        } if request_id == request.request_id:
            return ScaleAnswer(request_id, state, message)
    return None


def forget(folder: Path) -> None:
    """What was asked of a start that is over."""
    for name in (REQUEST, ANSWER):
        (folder / name).unlink(missing_ok=True)


def _write(path: Path, value: dict[str, Any]) -> None:
    temporary = path.with_name(f".tmp-{uuid4().hex}-{path.name}")  # two may ask at once
    try:
        temporary.write_text(json.dumps(value), encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path) -> Any:
    try:
        with path.open(encoding="utf-8") as file:
            return json.loads(file.read(MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
