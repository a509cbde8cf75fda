"""Waiting in tests on a machine of any load: a wait goes on for as long as somebody works, and is over when all idle.

Given a condition and the processes that bring it about; gives back when it holds. Fails when the processes ended first,
or when none of them had anything to run for a while: one that waits for its turn on a busy core is not idle, so the
clock of such a wait stands still while the machine is shared. The limit of pytest-timeout is left for what runs in
circles.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

IDLE_S = 120.0
"""Seconds without work after which a wait is over: the longest pause of a program of ours or of Ray's is 60 s."""
HANGS_S = 900.0
"""A deadline for what ends within seconds by itself and cannot be watched, a call or a task: later means never."""
LOOK_EVERY_S = 0.1
WORKING_SHARE = 0.1
"""Of a core, used by all of them together: the polling of idle ones is less."""


class Idleness:
    """How long none of these processes, with all below them, has had anything to do."""

    def __init__(self, roots: Sequence[int], outputs: Sequence[Path] = ()) -> None:
        """`outputs`: files that grow while there is progress."""
        self._roots = roots
        self._outputs = outputs
        self._size = -1
        self._processor_s = 0.0
        self._looked_at = time.monotonic()
        self.seconds = 0.0

    def look(self) -> float:
        """Look again; gives the seconds. Output sets them back, work stops their clock."""
        now = time.monotonic()
        passed_s, self._looked_at = now - self._looked_at, now
        states, processor_s = self._work()
        used_s, self._processor_s = processor_s - self._processor_s, processor_s
        size = sum(output.stat().st_size for output in self._outputs if output.exists())
        if size != self._size:
            self._size, self.seconds = size, 0.0
        elif not states & {psutil.STATUS_RUNNING, psutil.STATUS_DISK_SLEEP} and used_s < WORKING_SHARE * passed_s:
            self.seconds += passed_s
        return self.seconds

    def _work(self) -> tuple[set[str], float]:
        """States of all, and the processor time that they have used."""
        states, processor_s = set(), 0.0
        for root in self._roots:
            try:
                processes = [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
            except psutil.NoSuchProcess:
                continue
            for process in processes:
                try:
                    states.add(process.status())
                    processor_s += sum(process.cpu_times()[:2])
                except psutil.NoSuchProcess:
                    continue
        return states, processor_s


def wait_until(
    condition: Callable[[], bool],
    what: str,
    processes: Sequence[subprocess.Popen[Any]] = (),
    others: Sequence[int] = (),
    outputs: Sequence[Path] = (),
    told: Callable[[], str] = lambda: "",
) -> None:
    """Until the condition holds. All of `processes` must go on, or end well, until then; `others` (process ids) work
    for it too. Without either, a thread of this process does, for whom nobody can look: `HANGS_S`."""
    idleness = Idleness([*(process.pid for process in processes), *others], outputs)
    began = time.monotonic()
    while not condition():
        ended = [process.returncode for process in processes if process.poll() is not None]
        if (processes and len(ended) == len(processes)) or any(ended):
            assert condition(), f"ended with {ended} before {what}:\n{told()}"
            return
        if processes or others:
            assert idleness.look() < IDLE_S, f"no {what}, and for {IDLE_S:g} s nobody works on it:\n{told()}"
        else:
            assert time.monotonic() - began < HANGS_S, f"no {what} within {HANGS_S:g} s:\n{told()}"
        time.sleep(LOOK_EVERY_S if processes or others else 0.01)


def wait_for_end(
    process: subprocess.Popen[Any], told: Callable[[], str] = lambda: "", others: Sequence[int] = ()
) -> int:
    """Exit code, once it has ended by itself."""
    idleness = Idleness([process.pid, *others])
    while (code := process.poll()) is None:
        assert idleness.look() < IDLE_S, f"runs still, and for {IDLE_S:g} s it has done nothing:\n{told()}"
        time.sleep(LOOK_EVERY_S)
    return code


def finished(
    words: Sequence[str | Path],
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    others: Sequence[int] = (),
) -> subprocess.CompletedProcess[str]:
    """A program that has run to its end, with what it printed; killed where it only idles."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:

        def printed() -> tuple[str, str]:
            for file in (out, err):
                file.seek(0)
            return out.read(), err.read()

        process = subprocess.Popen(words, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err, text=True)
        try:
            code = wait_for_end(process, lambda: "\n".join(printed()), others)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        return subprocess.CompletedProcess(list(map(str, words)), code, *printed())


def is_gone(pid: int) -> bool:
    """Whether the process is ended and reaped, or, as somebody else's child, needs only be reaped."""
    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE and process.ppid() != psutil.Process().pid
    except psutil.NoSuchProcess:
        return True
