"""The parent's hold on one killable process of a reward; rewards/sandbox/sandbox.py decides what is sent to it.

Given a reward's config, starts `raylign.rewards.sandbox.keeper`, which forks the process that runs the reward, and
gives a channel to that; ends it at once on demand, with everything it started, and leaves no zombie.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, get_args

from raylign.rewards.base import FailureKind, Item, KillableConfig
from raylign.rewards.sandbox.limits import Limits, child_environment
from raylign.rewards.sandbox.messages import MAX_MESSAGE_CHARACTERS, BadReply, ReplyReader, send_frame
from raylign.rewards.sandbox.questions import Question

logger = logging.getLogger(__name__)

END_DEADLINE_S = 10.0
SILENT_WAIT_S = 20.0
LAST_WORD_GRACE_S = 1.0  # a socket closes a moment before its process ends
MAX_FORM_CHARACTERS = 200
MARK = "RAYLIGN_REWARD_PROCESS"


@cache
def _launcher(process_id: int) -> ThreadPoolExecutor:
    """The one thread that starts children: the kernel ends a child when the *thread* that started it ends."""
    return ThreadPoolExecutor(1, "reward-launcher")


class ChildFailed(RuntimeError):
    """A child ended, or could not start; the message says how (`ended with exit code 3`), `kind` which limit it was."""

    def __init__(self, message: str, kind: FailureKind = "crash") -> None:
        super().__init__(message)
        self.kind: FailureKind = kind


class ChildProcess:
    """One process, started when first needed and again after each end."""

    def __init__(self, config: KillableConfig, label: str) -> None:
        self._config = config
        self._label = label
        self._limits = Limits.of(config)
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._last_word: socket.socket | None = None
        self._mark = ""
        self._number = 0
        self.is_pointwise = False
        self.form = ""
        self._is_ready = False

    @property
    def channel(self) -> socket.socket:
        assert self._channel is not None, "the process is not started"
        return self._channel

    def ensure_started(self) -> None:
        """Start it unless it runs. Raises ValueError when the reward cannot be built, ChildFailed when it ends."""
        if self._is_ready and not self._has_ended():
            return
        self.kill()
        self._start()
        try:
            send_frame(self.channel, self._config.model_dump_json().encode())
            reply = self._first_reply()
        except (EOFError, OSError, BadReply):
            failed = self.end()
            raise ChildFailed(f"the process of reward {self._label!r} {failed} while it started", failed.kind) from None
        if "error" in reply:
            self.kill()
            raise ValueError(f"reward {self._label!r}: {reply['error']}")
        self.is_pointwise = reply.get("ready") is True
        self.form = str(reply.get("form", ""))[:MAX_FORM_CHARACTERS]
        self._is_ready = True

    def _start(self) -> None:
        self._channel, reward_end = socket.socketpair()
        self._last_word, keeper_end = socket.socketpair()
        self._reader = ReplyReader(self._channel)
        self._mark = uuid.uuid4().hex
        command = [sys.executable, "-P", "-m", "raylign.rewards.sandbox.keeper"]
        numbers = (reward_end.fileno(), keeper_end.fileno())
        with reward_end, keeper_end:
            self._process = (
                _launcher(os.getpid())
                .submit(
                    subprocess.Popen,
                    [*command, *map(str, numbers), str(os.getpid()), self._limits.to_json()],
                    stdin=subprocess.DEVNULL,
                    env=child_environment(self._config.environment) | {MARK: self._mark},
                    pass_fds=numbers,
                    start_new_session=True,  # Ctrl-C does not reach it
                )
                .result()
            )

    def _first_reply(self) -> dict[str, Any]:
        start_deadline_s = self._config.start_deadline_s
        started = time.monotonic()
        was_silent = True
        while (reply := self._reader.read()) is None:
            waited_s = time.monotonic() - started
            if waited_s > start_deadline_s:
                self.kill()
                raise ValueError(
                    f"reward {self._label!r} did not start within {start_deadline_s:g} s (start_deadline_s): "
                    "its import hangs or takes long"
                )
            if was_silent and waited_s >= SILENT_WAIT_S:
                was_silent = False
                logger.warning(
                    "waiting for reward %r to start (it imports what it needs), at most %g s",
                    self._label,
                    start_deadline_s,
                )
            next_s = SILENT_WAIT_S if was_silent else start_deadline_s
            select.select([self.channel], [], [], max(0.0, min(next_s, start_deadline_s) - waited_s) + 0.001)
        if not isinstance(reply, dict):
            raise BadReply("the first reply is no object")
        return reply

    def send(self, item: Item | Question) -> None:
        """Give it one item, or a question. OSError when it has ended, or does not take the item."""
        self._number += 1
        self.channel.settimeout(self._config.deadline_s)  # its code may have stopped reading
        try:
            send_frame(self.channel, pickle.dumps((self._number, item)))
        finally:
            self.channel.settimeout(None)

    def receive(self) -> Any:
        """The scores of the item sent last as plain data, unchecked; None while they are not whole.

        EOFError when the process has closed its end, BadReply for anything but the reply to that item.
        """
        reply = self._reader.read()
        if reply is None:
            return None
        if not isinstance(reply, dict) or reply.get("number") != self._number:
            raise BadReply("a reply answers another item than the one that was sent")
        return reply.get("scores")

    def _has_ended(self) -> bool:
        """Leaves the zombie for `kill`: while it is there, its group's number means this group and no other."""
        if self._process is None:
            return True
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def end(self) -> ChildFailed:
        """How the process ended, killing it if it has not yet."""
        word = self._read_last_word(LAST_WORD_GRACE_S)
        self.kill()
        if word is None:
            return ChildFailed("closed its connection")
        return ChildFailed(word["message"], word["kind"])

    def _read_last_word(self, grace_s: float) -> Any:
        """What the keeper said last; None when it has not, or was killed by the code that it kept."""
        assert self._last_word is not None
        try:
            self._last_word.settimeout(grace_s)
            word = json.loads(self._last_word.recv(4 * MAX_MESSAGE_CHARACTERS))
        except (OSError, ValueError):
            return None
        is_word = isinstance(word, dict) and word.get("kind") in get_args(FailureKind)
        return word if is_word and isinstance(word.get("message"), str) else None

    def kill(self) -> None:
        """End it at once, with all that it started, and leave no zombie."""
        self._is_ready = False
        if self._process is not None:
            self._end_keeper(self._process)
            self._process = None
        for end in (self._channel, self._last_word):
            if end is not None:
                end.close()
        self._channel = self._last_word = None

    def _end_keeper(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_DEADLINE_S)
        except subprocess.TimeoutExpired:  # stopped by the code that it keeps
            process.kill()
            process.wait(END_DEADLINE_S)
        if process.returncode != 0:
            _end_marked(self._mark)


def _end_marked(mark: str) -> None:
    """End what a killed keeper could not: the processes that began with this mark in their environment."""
    wanted = f"{MARK}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)
