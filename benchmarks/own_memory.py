"""How much memory this process has of its own, and the most it had.

Given nothing; gives MiB. Pages of mapped files (libraries, weights that nobody has written to) are the disk's and do
not count; shared memory does.
"""

from __future__ import annotations

import threading
from pathlib import Path

LOOK_EVERY_S = 0.002


def own_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem"))) / 1024


class Watch:
    """The most that was held, looked at every few milliseconds."""

    def __init__(self) -> None:
        self.most_mib = own_mib()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            self.most_mib = max(self.most_mib, own_mib())

    def stop(self) -> float:
        self._over.set()
        self._thread.join()
        return self.most_mib
