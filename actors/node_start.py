"""Patience for the start of a Ray node on a busy machine.

Given nothing; gives `PATIENT_ENVIRONMENT`, which Ray's processes read, and a context in which a node that this process
starts may take as long as it needs: Ray's own limit of 30 s is a number in its source.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NODE_START_S = 600.0
REPORT_S = 30.0
PATIENT_ENVIRONMENT = {
    "RAY_worker_register_timeout_seconds": "600",  # on a busy machine imports take minutes
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_gcs_server_port_wait_time_s": "600",
    "RAY_py_gcs_connect_timeout_s": "300",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
}
_ERROR = re.compile(r"^\[[\d\- :,.]+ [EFC] \d+ \d+\]|\b\w+Error: ")
"""A line of Ray's C++ processes (error, fatal), or the end of a Python traceback."""


class NodeStartError(Exception):
    """A process of the node ended while it started. No RuntimeError: Ray would ask for the node again for 30 s."""

    says_it_all = True
    """The command line shows the words alone, without a traceback."""


@contextmanager
def patient_node_start(node_start_s: float = NODE_START_S) -> Iterator[None]:
    """A node that is started meanwhile has so long to become known, for as long as all its processes run."""
    from ray._private import node, services

    # Any: what is put in the place of a function has the type of neither
    node_class: Any = node.Node
    services_module: Any = services
    start_processes, get_node = node_class.start_ray_processes, services_module.get_node
    started: list[Any] = []

    def start_and_remember(self: Any) -> None:
        started.append(self)
        start_processes(self)

    def get_node_patiently(gcs_address: str, node_id: str) -> Any:
        began = reported = time.monotonic()
        while True:
            try:
                return get_node(gcs_address, node_id)
            except RuntimeError:  # not yet known
                for each in started:
                    raise_if_dead(each)
                if time.monotonic() - began > node_start_s:
                    raise
            if time.monotonic() - reported > REPORT_S:
                reported = time.monotonic()
                print(f"waiting for Ray's node to start since {reported - began:.0f} s", flush=True)
            time.sleep(0.1)

    node_class.start_ray_processes, services_module.get_node = start_and_remember, get_node_patiently
    try:
        yield
    finally:
        node_class.start_ray_processes, services_module.get_node = start_processes, get_node


def raise_if_dead(node: Any) -> None:
    """Name the processes of Ray's `Node` that have ended, with their last words."""
    dead = {kind: process.poll() for kind, process in node.dead_processes()}
    if not dead:
        return
    folder = Path(node.get_logs_dir_path())
    said = [line for kind in dead for path in sorted(folder.glob(f"{kind}*")) for line in _last_lines(path)]
    codes = ", ".join(f"{kind} (exit code {code})" for kind, code in dead.items())
    raise NodeStartError("\n".join([f"Ray's node did not start: {codes} ended; logs in {folder}", *said]))


def _last_lines(path: Path, count: int = 5) -> list[str]:
    """Those that Ray marks as errors and what they run on to; a stack, which comes last, says less."""
    lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [number for number, line in enumerate(lines) if _ERROR.search(line)]
    chosen = lines[errors[-1] :][:count] if errors else lines[-count:]
    return [f"  {path.name}: {line}" for line in chosen]
