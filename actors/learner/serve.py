"""What Ray Train runs on every rank: commands from the mailbox, one after the other.

Given a `LearnerSpec` and the mailbox; builds the learner on the first verb, answers verbs until STOP, and ends with
the first error, which the mailbox is told before. A rank waits for the loop's next command; nothing else unblocks it.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any, TypedDict

from raylign.actors.learner.mailbox import POLL_S, STOP, WHERE, Answer, MailboxHandle
from raylign.actors.learner.spec import LearnerSpec
from raylign.learners.engines.non_finite import NonFiniteError

if TYPE_CHECKING:
    from raylign.actors.learner.verbs import RankVerbs


FINAL = (ValueError, TypeError, LookupError, AssertionError, NonFiniteError)
"""Another group would raise these again. All else may be a peer, a GPU or a disk that failed."""


class RankArguments(TypedDict):
    """Ray Train passes a function one dict."""

    spec: LearnerSpec
    mailbox: MailboxHandle


def serve_rank(arguments: RankArguments) -> None:
    """Serve until STOP."""
    import ray
    import ray.train

    from raylign.actors.learner.rank import LearnerRank

    mailbox = arguments["mailbox"]
    rank = ray.train.get_context().get_world_rank()
    learner: RankVerbs | None = None
    index = 0
    while True:
        command = ray.get(mailbox.next.remote(index), timeout=POLL_S * 6)
        if command is None:
            continue
        result: Any = None
        try:
            if command.verb == WHERE:
                result = ray.get_runtime_context().get_node_id()
            elif command.verb != STOP:
                if learner is None:
                    learner = LearnerRank(arguments["spec"])
                assert command.arguments is not None, "every verb comes with its arguments, be they none"
                given, named = ray.get(command.arguments)
                result = getattr(learner, command.verb)(*given, **named)
        except BaseException as error:
            answer = Answer(traceback=traceback.format_exc(), is_final=isinstance(error, FINAL))
            ray.get(mailbox.done.remote(index, rank, answer), timeout=POLL_S)
            raise
        ray.get(mailbox.done.remote(index, rank, Answer(result if rank == 0 else None)), timeout=POLL_S)
        if command.verb == STOP:
            return
        index += 1
