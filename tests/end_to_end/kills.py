"""Signals to processes of a run that goes on in this process, each after a step.

Given a run folder, the title of a process for each step, and a signal; sends it to those that work for this process.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from raylign.jobs.run.folder import read_metrics

LOOK_EVERY_S = 0.02


def working_for(pid: int, title: str) -> list[psutil.Process]:
    """Descendants of a process whose command line has these words."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if title in " ".join(process.cmdline()):
                found.append(process)
    return found


class Kills:
    """From the beginning of the block to its end."""

    def __init__(
        self, folder: Path, titles: Mapping[int, str], sign: signal.Signals = signal.SIGKILL, pid: int | None = None
    ) -> None:
        """`titles`: by the step that is trained before. `pid`: whose descendants; None: this process's."""
        self._folder, self._titles, self._sign = folder, sorted(titles.items()), sign
        self._pid = psutil.Process().pid if pid is None else pid
        self.done: list[tuple[int, str]] = []
        """Step and title of what was found and sent its signal."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Kills:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        for step, title in self._titles:
            while not any(line["step"] >= step for line in read_metrics(self._folder)):
                if self._over.wait(LOOK_EVERY_S):
                    return
            while not (found := working_for(self._pid, title)):
                if self._over.wait(LOOK_EVERY_S):
                    return
            for process in found:
                process.send_signal(self._sign)
                self.done.append((step, title))
