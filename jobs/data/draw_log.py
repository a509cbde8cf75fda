"""The raw file of a draw: one line for each prompt, written as its answers are finished and scored.

Given a path and what is drawn; gives the prompts that are there already, and appends others, each ordinal once. A line
that was half-written when the process died is cut off; answers of other data or another model are refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from raylign.rollout.best_worst import AnswerSet
from raylign.rollout.data.json_lines import parse_json


@dataclass(frozen=True)
class DrawIdentity:
    """What all lines of one file must have in common."""

    policy: str
    fingerprint: str
    """Of the data."""
    num_answers: int
    """For each prompt."""


class DrawLog:
    """`with DrawLog(path, identity) as log: log.append(...)`."""

    def __init__(self, path: Path, identity: DrawIdentity) -> None:
        self.path = path
        self.identity = identity
        self.drawn: dict[int, AnswerSet] = {}
        """By ordinal, in the order of the file."""
        num_bytes = self._read() if path.exists() else 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = path.open("ab")
        self._file.truncate(num_bytes)

    def append(self, answers: AnswerSet) -> None:
        """One line, out of this process when the call returns: safe from its death."""
        if answers.ordinal in self.drawn:
            raise ValueError(f"{self.path}: prompt {answers.prompt_id} (ordinal {answers.ordinal}) is there already")
        # a data row may hold dates and the like, which JSON does not know
        line = json.dumps(answers.as_line(), ensure_ascii=False, default=str)
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        self.drawn[answers.ordinal] = answers

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> DrawLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> int:
        """Take up all whole lines; gives their bytes."""
        content = self.path.read_bytes()
        whole, newline, _ = content.rpartition(b"\n")
        for number, line in enumerate(whole.split(b"\n") if newline else [], 1):
            answers = self._answers(line, number)
            self._check(answers, number)
            self.drawn[answers.ordinal] = answers
        return len(whole) + len(newline)

    def _answers(self, line: bytes, number: int) -> AnswerSet:
        try:
            return AnswerSet.from_line(parse_json(line.decode(), str(self.path), number))
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(
                f"{self.path}:{number}: not what this job writes ({error!r}); remove the line, and its prompt is drawn "
                "again"
            ) from None

    def _check(self, answers: AnswerSet, number: int) -> None:
        where, identity = f"{self.path}:{number}", self.identity
        if answers.ordinal in self.drawn:
            raise ValueError(f"{where}: ordinal {answers.ordinal} is in the file twice; remove one of the lines")
        if answers.fingerprint != identity.fingerprint:
            raise ValueError(
                f"{where}: drawn from other data (fingerprint {answers.fingerprint[:8]}, the data now gives "
                f"{identity.fingerprint[:8]}): the rows or their mapping have changed; put them back, or choose a new "
                "folder"
            )
        if answers.policy != identity.policy:
            raise ValueError(
                f"{where}: drawn from {answers.policy}, and the model is now {identity.policy}: best and worst of two "
                "policies are not a sample of either; put the model back, or choose a new folder"
            )
        if len(answers.answers) != identity.num_answers:
            raise ValueError(
                f"{where}: {len(answers.answers)} answers, and {identity.num_answers} are wanted for each prompt: put "
                "the number back, or choose a new folder"
            )
