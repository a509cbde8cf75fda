"""The mailbox between the train loop and the ranks: commands one way, answers the other.

Given commands by the loop; hands each to every rank once, in order, and gives rank 0's result back. An actor of its
own: Ray Train keeps the handles of its workers to itself.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

if TYPE_CHECKING:
    import ray

P = ParamSpec("P")
R = TypeVar("R")
STOP = "stop"
WHERE = "where"
POLL_S = 20.0
Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and named ones of one of `RankVerbs`, which says their types."""


class LearnerError(RuntimeError):
    """The learner group failed; the message holds the traceback of the rank. `is_final`: another group would fail in
    the same way."""

    def __init__(self, message: str, is_final: bool = False) -> None:
        super().__init__(message)
        self.is_final = is_final


@dataclass(frozen=True)
class Command:
    """What every rank is to do."""

    verb: str
    """STOP, WHERE (the node of the rank, before it builds anything), or the name of one of `RankVerbs`."""
    arguments: ray.ObjectRef[Arguments] | None = None
    """In the object store, where all ranks of a node read one copy; None with STOP and WHERE."""


@dataclass(frozen=True)
class Answer:
    """What one rank says to one command."""

    result: Any = None
    """Of rank 0; the other ranks say None."""
    traceback: str = ""
    """Of what the rank raised; empty where all went well."""
    is_final: bool = False
    """What it raised says of the data or the configuration, not of a process that is gone."""


class Mailbox:
    """Hands each command to every rank once, in order, and gathers their answers."""

    def __init__(self, num_ranks: int) -> None:
        self._num_ranks = num_ranks
        self._commands: list[Command] = []
        self._answers: list[dict[int, Answer]] = []
        self._changed = asyncio.Condition()
        self._controller: Any = None

    async def controlled_by(self, controller: Any) -> None:
        """Ray Train's controller of the ranks says who it is."""
        self._controller = controller

    async def abort(self) -> None:
        """The controller ends the ranks by force: they do not answer."""
        if self._controller is not None:
            self._controller.abort.remote()

    async def call(self, command: Command, deadline_s: float) -> Any:
        """Rank 0's result once all ranks are done; the first failed rank's traceback as a `LearnerError`."""
        async with self._changed:
            index = len(self._commands)
            self._commands.append(command)
            self._answers.append({})
            self._changed.notify_all()
            answers = self._answers[index]

            def settled() -> bool:
                return len(answers) == self._num_ranks or any(answer.traceback for answer in answers.values())

            try:
                await asyncio.wait_for(self._changed.wait_for(settled), deadline_s)
            except TimeoutError:
                missing = sorted(set(range(self._num_ranks)) - set(answers))
                raise LearnerError(
                    f"`{command.verb}` took over {deadline_s:.0f} s; ranks {missing} have not answered"
                ) from None
        for rank, answer in sorted(answers.items()):
            if answer.traceback:
                words = f"rank {rank} failed in `{command.verb}`:\n{answer.traceback}"
                raise LearnerError(words, any(each.is_final for each in answers.values()))
        self._commands[index] = Command(command.verb)  # lets Ray free the arguments
        result = answers[0].result
        answers.clear()  # a long run asks many times
        return result

    async def next(self, index: int) -> Command | None:
        """Command number `index`, or None when none came within the poll time (the rank asks again)."""
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(lambda: len(self._commands) > index), POLL_S)
            except TimeoutError:
                return None
            return self._commands[index]

    async def done(self, index: int, rank: int, answer: Answer) -> None:
        """A rank's answer to command `index`."""
        async with self._changed:
            self._answers[index][rank] = answer
            self._changed.notify_all()


class RemoteVerb(Protocol[P, R]):
    """A method of an actor."""

    def remote(self, *given: P.args, **named: P.kwargs) -> ray.ObjectRef[R]:
        """Ask for it; the reference is awaited, or given to `ray.get`."""


class MailboxHandle(Protocol):
    """The actor, as both ends call it."""

    call: RemoteVerb[[Command, float], Any]
    next: RemoteVerb[[int], Command | None]
    done: RemoteVerb[[int, int, Answer], None]
    controlled_by: RemoteVerb[[Any], None]
    abort: RemoteVerb[[], None]
