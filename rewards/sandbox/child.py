"""The process in which a reward that can hang or crash runs; started by rewards/sandbox/sandbox.py, never by hand.

Given over a socket a pickled factory, then items one by one; gives back `("ready", is pointwise)` or
`("error", why)`, then the scores of each item. Ends when the socket closes or its parent dies.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from multiprocessing.connection import Connection

from raylign.rewards.base import Item, PointwiseReward, Reward, RewardFailure, Score, typed_scores

PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel for SIGKILL when the parent ends: a reward that hangs never sees its socket close."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:  # it died before we asked
            os._exit(1)


def score_one_item(reward: Reward, item: Item) -> list[Score]:
    try:
        scored = reward.score([item])[0]
    except BaseException as error:  # sys.exit() in a user's function included
        scored = [RewardFailure("exception", f"{type(error).__name__}: {error}")] * len(item.completions)
    return typed_scores(scored, len(item.completions))


def main() -> None:
    socket_number, parent_pid = map(int, sys.argv[1:3])
    die_with_parent(parent_pid)
    connection: Connection = Connection(socket_number)
    try:
        reward = connection.recv()()
    except BaseException as error:  # whatever an import can raise is the user's to read
        connection.send(("error", str(error) or type(error).__name__))
        return
    connection.send(("ready", isinstance(reward, PointwiseReward)))
    while True:
        try:
            item = connection.recv()
        except EOFError:
            return
        connection.send(score_one_item(reward, item))


if __name__ == "__main__":
    main()
