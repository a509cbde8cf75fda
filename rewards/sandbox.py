"""Runs a reward in processes that can be killed, with a deadline for each item.

Given a picklable factory of a reward, is itself that reward: a hang or a crash costs one item (of a
`PointwiseReward`: one completion), which gets a typed failure; the process is replaced and the rest is scored.

    score() ── item ──▶ child        waits for: a reply, the child's end, or the deadline, whichever is first
            ◀─ scores ─              unblocked by: the child, the kernel, the clock
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import cast

from raylign.rewards.base import Item, Reward, RewardFailure, Score

logger = logging.getLogger(__name__)

KILL_DEADLINE_S = 10.0
SILENT_WAIT_S = 20.0


@cache
def _launcher(process_id: int) -> ThreadPoolExecutor:
    """The one thread that starts children: the kernel ends a child when the *thread* that started it ends."""
    return ThreadPoolExecutor(1, "reward-launcher")


class ChildFailed(RuntimeError):
    """A child ended, or could not start; the message says how."""


class _Child:
    """One process, started when first needed and again after each end."""

    def __init__(self, factory: bytes, label: str, start_deadline_s: float) -> None:
        self._factory = factory
        self._label = label
        self._start_deadline_s = start_deadline_s
        self._process: subprocess.Popen[bytes] | None = None
        self.connection: Connection | None = None
        self.is_pointwise = False

    def ensure_started(self) -> None:
        """Start it unless it runs. Raises ValueError when the reward cannot be built, ChildFailed when it ends."""
        if self._process is not None and self._process.poll() is None:
            return
        self.kill()
        ours, theirs = Pipe()
        # -P and the whole path: the child sees the packages that we see, and no others.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        command = [sys.executable, "-P", "-m", "raylign.rewards.sandbox_child"]
        with theirs:
            self._process = (
                _launcher(os.getpid())
                .submit(
                    subprocess.Popen,
                    [*command, str(theirs.fileno()), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    env=environment,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # a kill reaches what the reward itself started; Ctrl-C does not
                )
                .result()
            )
        self.connection = ours
        try:
            ours.send_bytes(self._factory)
            kind, detail = self._first_reply(ours)
        except (EOFError, OSError):
            raise ChildFailed(f"the process of reward {self._label!r} {self.end()} while it started") from None
        if kind == "error":
            self.kill()
            raise ValueError(f"reward {self._label!r}: {detail}")
        self.is_pointwise = detail is True

    def _first_reply(self, connection: Connection) -> tuple[str, object]:
        silent_s = min(SILENT_WAIT_S, self._start_deadline_s)
        if not connection.poll(silent_s):
            logger.warning(
                "waiting for reward %r to start (it imports what it needs), at most %g s",
                self._label,
                self._start_deadline_s,
            )
            if not connection.poll(self._start_deadline_s - silent_s):
                self.kill()
                raise ValueError(
                    f"reward {self._label!r} did not start within {self._start_deadline_s:g} s (start_deadline_s): "
                    "its import hangs or takes long"
                )
        return connection.recv()

    def end(self) -> str:
        """How the process ended, killing it if it has not yet: `ended by SIGSEGV`."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)  # its socket closes a moment before it ends
        code = self._process.returncode
        self.kill()
        if code is None:
            return "closed its connection"
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def kill(self) -> None:
        """End it at once, with all that it started, and leave no zombie."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(KILL_DEADLINE_S)
            self._process = None


@dataclass(frozen=True)
class _Unit:
    """What is sent at once and fails at once: an item, or one completion of it."""

    item_index: int
    first_completion: int
    item: Item


def _single(item: Item, index: int) -> Item:
    return replace(
        item,
        completions=item.completions[index : index + 1],
        num_tokens=item.num_tokens[index : index + 1],
        finished=item.finished[index : index + 1],
    )


class Sandboxed(Reward):
    """A reward whose work is done by `num_processes` children; safe to call from several threads, one at a time."""

    def __init__(
        self,
        factory: Callable[[], Reward],
        *,
        label: str,
        deadline_s: float,
        start_deadline_s: float = 60.0,
        num_processes: int = 1,
    ) -> None:
        """Starts one child, so that a reward that cannot be built raises ValueError here."""
        self._label = label
        self._deadline_s = deadline_s
        self._lock = threading.Lock()
        pickled = pickle.dumps(factory)
        self._children = [_Child(pickled, label, start_deadline_s) for _ in range(num_processes)]
        try:
            self._children[0].ensure_started()
        except ChildFailed as error:
            raise ValueError(f"{error}; run what it imports by hand to see why") from None
        self._is_pointwise = self._children[0].is_pointwise

    def score(self, items: Sequence[Item]) -> list[list[Score]]:
        scores: list[list[Score]] = [[] for _ in items]
        finished: dict[tuple[int, int], list[Score]] = {}
        with self._lock:
            self._run(deque(self._units(items)), finished)
        for item_index, _first in sorted(finished):
            scores[item_index].extend(finished[item_index, _first])
        return scores

    def _units(self, items: Sequence[Item]) -> list[_Unit]:
        if not self._is_pointwise:
            return [_Unit(item_index, 0, item) for item_index, item in enumerate(items)]
        return [
            _Unit(item_index, index, _single(item, index))
            for item_index, item in enumerate(items)
            for index in range(len(item.completions))
        ]

    def _run(self, waiting: deque[_Unit], finished: dict[tuple[int, int], list[Score]]) -> None:
        idle = list(self._children)
        running: dict[Connection, tuple[_Child, _Unit, float]] = {}

        def finish(unit: _Unit, scores: list[Score] | RewardFailure) -> None:
            if isinstance(scores, RewardFailure):
                scores = [scores] * len(unit.item.completions)
            finished[unit.item_index, unit.first_completion] = scores

        try:
            while waiting or running:
                while waiting and idle:
                    child, unit = idle[-1], waiting.popleft()
                    try:
                        connection = self._send(child, unit)
                    except (ChildFailed, ValueError) as error:
                        finish(unit, RewardFailure("crash", f"could not be restarted: {error}"))
                        continue
                    idle.pop()
                    running[connection] = (child, unit, time.monotonic() + self._deadline_s)
                if not running:
                    continue
                first_deadline = min(deadline for _, _, deadline in running.values())
                for ready in wait(list(running), max(0.0, first_deadline - time.monotonic())):
                    connection = cast(Connection, ready)
                    child, unit, _ = running.pop(connection)
                    try:
                        finish(unit, connection.recv())
                    except (EOFError, OSError, pickle.UnpicklingError):
                        finish(unit, RewardFailure("crash", f"the process {child.end()}"))
                    idle.append(child)
                for connection, (child, unit, deadline) in list(running.items()):
                    if deadline <= time.monotonic() and not connection.poll():
                        del running[connection]
                        child.kill()
                        message = f"no score within {self._deadline_s:g} s (deadline_s)"
                        finish(unit, RewardFailure("timeout", message))
                        idle.append(child)
        finally:
            for child, _, _ in running.values():  # interrupted: a late reply must not answer the next call
                child.kill()

    @staticmethod
    def _send(child: _Child, unit: _Unit) -> Connection:
        child.ensure_started()
        assert child.connection is not None
        try:
            child.connection.send(unit.item)
        except OSError:  # it ended while idle, which is no item's fault: once more
            child.kill()
            child.ensure_started()
            child.connection.send(unit.item)
        return child.connection

    def close(self) -> None:
        with self._lock:
            for child in self._children:
                child.kill()
