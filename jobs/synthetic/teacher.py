"""The teacher of a job: prompts of many rows to replies, several under way at once, each on disk when it is there.

Given a stage's questions; gives the replies by row. Replies are in the stage's journal, so a resumed job asks only what
was not answered; questions that were under way when it died are asked again and counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from raylign.jobs.data.row_journal import RowJournal, key_of
from raylign.jobs.run.progress import Progress
from raylign.jobs.synthetic.config import TeacherConfig
from raylign.jobs.synthetic.prompts import PROMPTS_VERSION
from raylign.rewards.chat_client import BYTES_PER_TOKEN, ChatClient
from raylign.rewards.chat_reply import ChatFailure

FAILURES_IN_A_ROW = 20
"""So many questions without an answer, one after another, mean that the teacher is down."""
PASSING = ("timeout", "unreachable", "rate_limited")
"""Kinds of failures that are another's fault: they are not written down, so that a resumed stage asks again."""


class TeacherDown(ValueError):
    """It answers nothing any more."""


@dataclass(frozen=True)
class Question:
    """What is asked for one row."""

    row_id: str
    prompt: str
    num_replies: int = 1
    sample: str | None = None
    """Tells equal prompts apart that want replies of their own."""


class Teacher:
    """`async with Teacher(config, folder) as teacher: await teacher.ask("generate", questions)`."""

    def __init__(self, config: TeacherConfig, folder: Path) -> None:
        self._config = config
        self._folder = folder
        self.client = ChatClient(config, "teacher", folder / "calls.jsonl")
        self.repeated_in_flight = 0
        self._failures_in_a_row = 0

    async def __aenter__(self) -> Self:
        await self.client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.client.__aexit__(kind, error, traceback)

    def key(self, question: Question) -> str:
        """Of everything that decides the replies."""
        config = self._config
        return key_of(
            PROMPTS_VERSION,
            config.model,
            config.temperature,
            config.max_tokens,
            self._cut(question.prompt),
            question.num_replies,
            question.sample,
        )

    async def ask(self, stage: str, questions: Sequence[Question]) -> dict[str, list[str] | ChatFailure]:
        """Replies by row. The first error that every question would meet ends it, once what is under way is there."""
        with RowJournal(self._folder / f"{stage}.replies.jsonl", stage) as journal:
            found = {
                question.row_id: _from_line(journal.result(question.row_id, self.key(question)))
                for question in questions
                if journal.has(question.row_id, self.key(question))
            }
            missing = [question for question in questions if question.row_id not in found]
            with Progress(f"teacher: {stage}", len(questions), unit="rows", start=len(found)) as progress:
                await self._ask_all(stage, missing, journal, found, progress)
            self.repeated_in_flight += journal.repeated_in_flight
        failures = [each for question in missing if isinstance(each := found[question.row_id], ChatFailure)]
        if failures and len(failures) == len(missing) and all(each.kind in PASSING for each in failures):
            # fewer than FAILURES_IN_A_ROW: the stage's file would drop them all, and a resume would not ask again
            raise TeacherDown(
                f"the teacher {self._config.model!r} answered none of {len(failures)} questions; the last: "
                f"{failures[-1].kind}: {failures[-1].message}; go on with --resume once it answers"
            )
        return {question.row_id: found[question.row_id] for question in questions}

    async def _ask_all(
        self,
        stage: str,
        missing: Sequence[Question],
        journal: RowJournal,
        found: dict[str, list[str] | ChatFailure],
        progress: Progress,
    ) -> None:
        left = iter(missing)
        errors: list[Exception] = []

        async def worker() -> None:
            for question in left:  # shared by all workers
                if errors:
                    return
                try:
                    found[question.row_id] = await self._ask_one(stage, question, journal)
                except Exception as error:
                    errors.append(error)
                    return
                progress.advance(len(found))

        workers = [asyncio.create_task(worker()) for _ in range(min(self._config.max_concurrent, len(missing)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for task in workers:
                task.cancel()
        if errors:
            raise errors[0]

    async def _ask_one(self, stage: str, question: Question, journal: RowJournal) -> list[str] | ChatFailure:
        config, key = self._config, self.key(question)
        journal.begin(question.row_id, key)
        try:
            answer = await self.client.ask(
                [{"role": "user", "content": self._cut(question.prompt)}],
                num_replies=question.num_replies,
                temperature=config.temperature,
                max_tokens=config.max_tokens,
                sample=question.sample,
                stage=stage,
            )
        except Exception:
            journal.withdraw(question.row_id, key)
            raise
        if isinstance(answer, ChatFailure):
            if answer.kind in PASSING:
                journal.withdraw(question.row_id, key)
                self._failures_in_a_row += 1
                if self._failures_in_a_row >= FAILURES_IN_A_ROW:
                    raise TeacherDown(
                        f"the teacher {config.model!r} left {FAILURES_IN_A_ROW} questions in a row unanswered; the "
                        f"last: {answer.kind}: {answer.message}; go on with --resume once it answers"
                    )
            else:
                journal.append(question.row_id, key, {"kind": answer.kind, "message": answer.message})
            return answer
        self._failures_in_a_row = 0
        texts = [reply.text for reply in answer]
        journal.append(question.row_id, key, texts)
        return texts

    def _cut(self, prompt: str) -> str:
        most = self._config.max_prompt_tokens * BYTES_PER_TOKEN
        text = prompt.encode("utf-8", "replace")
        return prompt if len(text) <= most else text[:most].decode("utf-8", "ignore")


def _from_line(result: Any) -> list[str] | ChatFailure:
    return (
        ChatFailure(result["kind"], result["message"]) if isinstance(result, dict) else [str(text) for text in result]
    )


def failure_words(failure: ChatFailure) -> str:
    """The reason of a dropped row."""
    return f"teacher: {failure.kind}"
