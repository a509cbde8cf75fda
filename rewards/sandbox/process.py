"""The parent's hold on one killable process of a reward; rewards/sandbox/sandbox.py decides what is sent to it.

Given a pickled factory of a reward, starts `raylign.rewards.sandbox.child` and gives a connection to it; ends it at
once on demand, with everything it started, and leaves no zombie.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from multiprocessing import Pipe
from multiprocessing.connection import Connection

logger = logging.getLogger(__name__)

KILL_DEADLINE_S = 10.0
SILENT_WAIT_S = 20.0
EXIT_GRACE_S = 1.0  # a socket closes a moment before its process ends


@cache
def _launcher(process_id: int) -> ThreadPoolExecutor:
    """The one thread that starts children: the kernel ends a child when the *thread* that started it ends."""
    return ThreadPoolExecutor(1, "reward-launcher")


class ChildFailed(RuntimeError):
    """A child ended, or could not start; the message says how."""


class ChildProcess:
    """One process, started when first needed and again after each end."""

    def __init__(self, factory: bytes, label: str, start_deadline_s: float) -> None:
        self._factory = factory
        self._label = label
        self._start_deadline_s = start_deadline_s
        self._process: subprocess.Popen[bytes] | None = None
        self.connection: Connection | None = None
        self.is_pointwise = False
        self._is_ready = False

    def ensure_started(self) -> None:
        """Start it unless it runs. Raises ValueError when the reward cannot be built, ChildFailed when it ends."""
        if self._is_ready and not self._has_ended():
            return
        self.kill()
        ours, theirs = Pipe()
        # -P and the whole path: the child sees the packages that we see, and no others.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        command = [sys.executable, "-P", "-m", "raylign.rewards.sandbox.child"]
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
        self._is_ready = True

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

    def _has_ended(self) -> bool:
        """Leaves the zombie for `kill`: while it is there, its group's number means this group and no other."""
        if self._process is None:
            return True
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def end(self) -> str:
        """How the process ended, killing it if it has not yet: `ended with exit code 3`."""
        process = self._process
        assert process is not None
        deadline = time.monotonic() + EXIT_GRACE_S
        while not (has_ended := self._has_ended()) and time.monotonic() < deadline:
            time.sleep(0.005)
        self.kill()
        code = process.returncode
        if not has_ended:
            return "closed its connection"
        if code < 0:
            return f"was ended by signal {-code} ({signal.strsignal(-code)})"
        return f"ended with exit code {code}"

    def kill(self) -> None:
        """End it at once, with all that it started, and leave no zombie."""
        self._is_ready = False
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(KILL_DEADLINE_S)
            self._process = None
