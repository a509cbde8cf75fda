"""What one node of a cluster says of itself: versions, GPUs, shared memory, its clock, and the folder all should share.

Given a folder; hosted by Ray on that node (`doctor_cluster.py`), gives a `NodeReport`.
"""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from pathlib import Path

from raylign.jobs.checks.doctor_environment import installed_versions
from raylign.jobs.checks.machine import this_machine

GREETING = "driver"
"""Written by the driver into the folder; every node must read it."""


@dataclass(frozen=True)
class NodeReport:
    """Of one node."""

    versions: dict[str, str]
    """Python's, and those of the tested libraries that are installed."""
    gpus: tuple[str, ...]
    """Names of those that the driver shows."""
    shared_memory_bytes: int
    """Free in /dev/shm."""
    folder_problem: str
    """Why the folder is of no use here; empty where it is."""


class NodeProbe:
    """On its node."""

    def report(self, folder: str, greeting: str, mine: str) -> NodeReport:
        """`mine`: the name of a file that it writes into the folder, for the driver to read."""
        machine = this_machine()
        return NodeReport(
            versions={"Python": platform.python_version(), **installed_versions()},
            gpus=tuple(gpu.name for gpu in machine.gpus),
            shared_memory_bytes=machine.shared_memory_bytes,
            folder_problem=folder_problem(Path(folder), greeting, mine),
        )

    def clock_s(self) -> float:
        """Seconds since 1970, as this node has them."""
        return time.time()


def folder_problem(folder: Path, greeting: str, mine: str) -> str:
    """Empty where the driver's file is read here, and a file is written."""
    try:
        if (folder / GREETING).read_text() != greeting:
            return "it holds another file than the driver wrote"
        (folder / mine).write_text(greeting)
    except FileNotFoundError:
        return "what the driver wrote is not there: another disk, or none, is mounted"
    except OSError as error:
        return f"it cannot be written ({error.strerror or error})"
    return ""
