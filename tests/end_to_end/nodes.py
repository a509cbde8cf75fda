"""A Ray cluster of several nodes on this machine: raylets with ports and a temporary folder of their own.

Given what each node has; gives the address and the nodes, whose processes are ended by their ids. `ray stop` is never
called: it would end other people's Ray too.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from raylign.actors.node_start import PATIENT_ENVIRONMENT
from tests.end_to_end.processes import WatchedProcess

RAY = """
from ray.scripts.scripts import main
from raylign.actors.node_start import patient_node_start
with patient_node_start():
    main()
"""
"""The program `ray`, without its limit for the start of a node."""
HEAD_PORTS = ("port", "ray-client-server-port", "dashboard-port")
NODE_PORTS = (
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "metrics-export-port",
    "runtime-env-agent-port",
    "node-manager-port",
    "object-manager-port",
)


@dataclass
class Nodes:
    """A running cluster."""

    folder: Path
    host: str
    address: str
    environment: dict[str, str]
    temporary: Path
    """Ray's own folder."""
    within: Sequence[str] = ()
    """Words before each command: where the head runs."""
    dashboard: str = ""
    """Address of the head's dashboard, where it has one."""
    processes: list[WatchedProcess] = field(default_factory=list)
    """Of the head, and of every node that joined."""
    pids: list[int] = field(default_factory=list)
    """Of these; grows with them."""

    def join(self, *words: str, host: str | None = None, within: Sequence[str] = ()) -> WatchedProcess:
        """Another node, as soon as it has registered; `host` and `within`: where, if not beside the head."""
        process = self._start(f"--address={self.address}", *words, host=host, within=within)
        process.wait_for(lambda: "Ray runtime started" in process.output(), "another node")
        return process

    def _start(self, *words: str, host: str | None = None, within: Sequence[str] = ()) -> WatchedProcess:
        ports = [f"--{name}={port}" for name, port in zip(NODE_PORTS, free_ports(len(NODE_PORTS)), strict=True)]
        where = f"--node-ip-address={host or self.host}"
        words = ("start", "--block", where, "--object-store-memory=100000000", *ports, *words)
        log = self.folder / f"node{len(self.processes)}.log"
        prefix = within or self.within
        process = WatchedProcess([*prefix, sys.executable, "-c", RAY, *words], log, self.environment)
        self.processes.append(process)
        self.pids.append(process.pid)
        return process


@contextmanager
def nodes(
    folder: Path,
    each: Sequence[Sequence[str]],
    extra: Mapping[str, str] | None = None,
    dashboard: bool = False,
    *,
    port: int | None = None,
    host: str = "127.0.0.1",
    within: Sequence[str] = (),
) -> Iterator[Nodes]:
    """`each`: words of `ray start` for the head and for the nodes that join it at once. `port`: the head's, if it must
    be known before. `within`: words before each command, such as those that enter a network namespace, with the `host`
    that it has there."""
    temporary = Path(tempfile.mkdtemp(prefix="rl-", dir="/tmp"))  # short: Ray's sockets live below it
    free, *others = free_ports(len(HEAD_PORTS))
    port = port or free
    environment = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")}
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    environment |= PATIENT_ENVIRONMENT | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # else workers get nothing beside other tests
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # a job says `python`
        **(extra or {}),
    }
    cluster = Nodes(folder, host, f"{host}:{port}", environment, temporary, within)
    head_ports = [f"--{name}={number}" for name, number in zip(HEAD_PORTS, (port, *others), strict=True)]
    shown = "--dashboard-host=127.0.0.1" if dashboard else "--include-dashboard=false"
    try:
        head = cluster._start("--head", f"--temp-dir={temporary}", shown, *head_ports, *each[0])
        head.wait_for(lambda: "Ray runtime started" in head.output(), "the head")
        if dashboard:
            cluster.dashboard = f"http://127.0.0.1:{others[-1]}"
            head.wait_for(lambda: answers(f"{cluster.dashboard}/api/version"), "dashboard")
        for words in each[1:]:
            cluster.join(*words)
        yield cluster
    finally:
        for process in reversed(cluster.processes):
            process.end()
        shutil.rmtree(temporary, ignore_errors=True)


def answers(url: str) -> bool:
    """Whether a server is there, whatever it says."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError:  # asks for the token: it is up
        return True
    except OSError:
        return False


def free_ports(count: int) -> list[int]:
    """TCP ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
