"""A task of a user's own file, as others see it: all its code runs in a process that can be killed.

Given a `TaskConfig` with a path, is a `Task`. Texts go there in chunks; a chunk that takes longer than `deadline_s`, or
ends the process, is asked again text by text, so that one text costs no other. A text that fails has no answer and is
counted; several failures in a row end the work with the task, the function and the text.
"""

from __future__ import annotations

import contextlib
import logging
import select
import threading
import time
from collections import Counter
from collections.abc import Sequence

from raylign.rewards.base import RewardFailure
from raylign.rewards.sandbox.messages import BadReply
from raylign.rewards.sandbox.process import ChildFailed, ChildProcess
from raylign.rewards.sandbox.questions import Question, Value, values_from_data
from raylign.rewards.tasks.config import TaskConfig
from raylign.rewards.tasks.task import Task, Verdict

logger = logging.getLogger(__name__)

CHUNK = 64
MOST_FAILURES_IN_A_ROW = 5
FUNCTIONS = {
    "describe": "its instructions",
    "answers": "read_answer",
    "labels": "read_label",
    "verdicts": "read_answer, read_label or same",
    "same": "same",
}
PROBE = "no answer here"


class TaskFailed(ValueError):
    """The code of a task does not work; the message says where."""


class KillableTask(Task):
    """May be used from several threads; they take turns."""

    def __init__(self, config: TaskConfig) -> None:
        """Starts the process and tries the readers on a text without an answer. ValueError for what does not work."""
        assert isinstance(config.task, str)
        self.name = config.task
        self.failures: Counter[str] = Counter()
        """Texts that could not be read, by kind."""
        self._deadline_s = config.deadline_s
        self._turn = threading.Lock()
        self._child = ChildProcess(config, "task")
        self._failures_in_a_row = 0
        try:
            self._child.ensure_started()
            self._probe()
            described = [self._described(part) for part in ("input_instruction", "output_instruction", "wrong_reward")]
        except ChildFailed as error:
            raise TaskFailed(f"task {self.name}: {error}") from None
        except BaseException:
            self.close()
            raise
        self.input_instruction, self.output_instruction = described[0], described[1] or ""
        self.wrong_reward = float(described[2] or 0) if config.wrong_reward is None else config.wrong_reward

    def read_answers(self, replies: Sequence[str]) -> list[str | None]:
        return self._texts("answers", replies)

    def read_labels(self, texts: Sequence[str]) -> list[str | None]:
        return self._texts("labels", texts)

    def judge(self, replies: Sequence[str], labels: Sequence[str]) -> list[Verdict]:
        values = self._ask("verdicts", list(zip(replies, labels, strict=True)))
        return [Verdict(*value) if isinstance(value, tuple) else Verdict(None) for value in values]

    def same(self, answer: str, label: str) -> bool:
        (value,) = self._ask("same", [(answer, label)])
        return isinstance(value, tuple) and value[1]

    def close(self) -> None:
        with self._turn:
            self._child.kill()

    def _texts(self, verb: str, texts: Sequence[str]) -> list[str | None]:
        values = self._ask(verb, [(text,) for text in texts])
        return [value if isinstance(value, str) else None for value in values]

    def _described(self, part: str) -> str | None:
        (value,) = self._reply(Question("describe", ((part,),)))
        return value if isinstance(value, str) else None

    def _probe(self) -> None:
        """A reader may refuse this text, but it has to come back."""
        for verb in ("answers", "labels"):
            (value,) = self._reply(Question(verb, ((PROBE,),)))
            if isinstance(value, RewardFailure) and value.kind != "exception":
                raise self._failed(verb, (PROBE,), value)

    def _ask(self, verb: str, rows: Sequence[tuple[str, ...]]) -> list[Value]:
        values: list[Value] = []
        with self._turn:
            for start in range(0, len(rows), CHUNK):
                chunk = tuple(rows[start : start + CHUNK])
                chunk_values = self._reply(Question(verb, chunk))
                if len(chunk) > 1 and any(_took_the_process(value) for value in chunk_values):
                    chunk_values = []
                    for row in chunk:
                        chunk_values += self._reply(Question(verb, (row,)))
                        self._count(verb, row, chunk_values[-1])
                else:
                    for row, value in zip(chunk, chunk_values, strict=True):
                        self._count(verb, row, value)
                values += chunk_values
        return values

    def _count(self, verb: str, row: tuple[str, ...], value: Value) -> None:
        if not isinstance(value, RewardFailure):
            self._failures_in_a_row = 0
            return
        if not self.failures:
            logger.warning("%s", self._failed(verb, row, value))
        self.failures[value.kind] += 1
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= MOST_FAILURES_IN_A_ROW:
            self._failures_in_a_row = 0
            words = f"{self._failed(verb, row, value)}; this was the {MOST_FAILURES_IN_A_ROW}th text in a row"
            raise TaskFailed(words)

    def _failed(self, verb: str, row: tuple[str, ...], failure: RewardFailure) -> TaskFailed:
        return TaskFailed(f"task {self.name}: {FUNCTIONS[verb]} failed on {row[0][-80:]!r}: {failure.message}")

    def _reply(self, question: Question) -> list[Value]:
        """One value for each row; the same failure for all where the process hung or ended."""
        failure: RewardFailure
        try:
            self._child.ensure_started()
            self._child.send(question)
            return self._received(len(question.rows))
        except TimeoutError:
            failure = RewardFailure("timeout", f"no reply within {self._deadline_s:g} s (deadline_s): it hangs")
        except BadReply as error:
            failure = RewardFailure("reply", str(error))
        except ChildFailed as error:
            failure = RewardFailure(error.kind, str(error))
        except (EOFError, OSError):
            ended = self._child.end()
            failure = RewardFailure(ended.kind, f"the process {ended}")
        self._child.kill()
        return [failure] * len(question.rows)

    def _received(self, num_rows: int) -> list[Value]:
        """TimeoutError past the deadline."""
        deadline = time.monotonic() + self._deadline_s
        try:
            while (data := self._child.receive()) is None:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError
                select.select([self._child.channel], [], [], left_s)
        except KeyboardInterrupt:  # a late reply must not answer the next question
            self._child.kill()
            raise
        return values_from_data(data, num_rows)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self._child.kill()


def _took_the_process(value: Value) -> bool:
    return isinstance(value, RewardFailure) and value.kind != "exception"
