"""`raylign` as a process of its own, and everything that it starts.

Given the words of a command line; gives its output and all processes ever seen below it, to be found gone afterwards.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.patience import Idleness, wait_for_end, wait_until

LOOK_EVERY_S = 0.5


class WatchedProcess:
    """A process in a session of its own; descendants are looked up while it runs, since later they have no parent."""

    def __init__(
        self,
        words: list[str],
        log: Path,
        environment: dict[str, str] | None = None,
        others: Sequence[int] = (),
        cwd: Path | None = None,
    ) -> None:
        """`others`: ids of processes that work for it, with all below them."""
        self.log, self._others = log, others
        with log.open("w") as output:
            self._process = subprocess.Popen(
                words,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                cwd=cwd,
                process_group=0,  # a session may starve on a core that another keeps busy (docs/decisions.md)
            )
        self.pid = self._process.pid
        self.seen: set[psutil.Process] = set()
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            try:
                self.seen.update(psutil.Process(self.pid).children(recursive=True))
            except psutil.NoSuchProcess:
                return

    @property
    def has_ended(self) -> bool:
        """By itself, or ended by somebody."""
        return self._process.poll() is not None

    def titles(self) -> set[str]:
        """Command lines of the descendants that run, `ray::` and `VLLM::` titles included."""
        return {title for process in self.alive() if (title := _title(process))}

    def listening(self) -> dict[str, str]:
        """Addresses at which it or a descendant waits for connections, and whose they are."""
        found: dict[str, str] = {}
        for process in [psutil.Process(self.pid), *self.alive()]:
            with suppress(psutil.NoSuchProcess):
                sockets = [each for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN]
                found |= {f"{each.laddr.ip} port {each.laddr.port}": _title(process) for each in sockets}
        return found

    def modes_of_folders(self) -> dict[str, int]:
        """Rights on each folder `/tmp/raylign-…` that a descendant's command line names."""
        named: set[str] = set()
        for process in self.alive():
            with suppress(psutil.NoSuchProcess):
                named |= set(re.findall(r"/tmp/raylign-[\w-]+", " ".join(process.cmdline())))
        return {folder: os.stat(folder).st_mode & 0o777 for folder in named}

    def alive(self) -> list[psutil.Process]:
        """Descendants that still run."""
        return [process for process in set(self.seen) if _runs(process)]

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Until the condition holds; an error with the output when the process ends first or all of it idles."""
        wait_until(condition, what, [self._process], self._others, [self.log], self.output)

    def interrupt(self, sign: signal.Signals) -> None:
        """To itself alone."""
        self._process.send_signal(sign)

    def wait(self) -> int:
        """Exit code, once it has ended by itself."""
        code = wait_for_end(self._process, self.output, self._others)
        self._over.set()
        self._watcher.join()
        return code

    def wait_until_none_is_left(self, idle_s: float, but: Collection[str] = ()) -> None:
        """Until all descendants are gone, save those with these titles; an error when they only idle for so long."""
        idleness = Idleness([process.pid for process in self.alive()])
        while alive := [process for process in self.alive() if _title(process) not in but]:
            assert idleness.look() < idle_s, f"left behind: {[(p.pid, _title(p)) for p in alive]}"
            time.sleep(0.2)

    def output(self) -> str:
        """All that it printed so far."""
        return self.log.read_text()

    def end(self) -> None:
        """Kill what is left; only processes that were seen as its own."""
        self._over.set()
        self._watcher.join()
        for process in [psutil.Process(self.pid)] if self._process.poll() is None else []:
            self.seen.update([process, *process.children(recursive=True)])
        for process in self.alive():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        self.wait_until_none_is_left(10)


@contextmanager
def raylign(*words: str, log: Path) -> Iterator[WatchedProcess]:
    """`raylign <words>` running; nothing of it is left when the block ends."""
    process = WatchedProcess([sys.executable, "-m", "raylign.jobs", *words], log)
    try:
        yield process
    finally:
        process.end()


def interrupt_group(process: WatchedProcess) -> None:
    """What a terminal does on Ctrl-C: SIGINT to every process of the group."""
    os.killpg(process.pid, signal.SIGINT)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[:80].strip()
    except psutil.NoSuchProcess:
        return ""
