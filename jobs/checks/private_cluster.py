"""What Ray itself needs of this machine where it is started for one run; `raylign doctor` says the same of any.

Given the cluster's config and the machine; adds to the findings what would end the start minutes later in other words.
"""

from __future__ import annotations

from raylign.actors.cluster import ClusterConfig, interpreter_problem
from raylign.jobs.checks.findings import Findings
from raylign.jobs.checks.machine import Machine

MIB_BESIDE_OBJECTS = 64
"""Of /dev/shm, for an engine's queues and a small model's weights."""


def check_private_cluster(cluster: ClusterConfig, machine: Machine, findings: Findings) -> None:
    """The interpreter's path, and shared memory."""
    if problem := interpreter_problem():
        findings.problems.append(problem)
    needed_bytes = (cluster.object_store_mib + MIB_BESIDE_OBJECTS) << 20
    if machine.shared_memory_bytes < needed_bytes:
        findings.problems.append(
            f"/dev/shm has {machine.shared_memory_bytes >> 20:,} MiB free, and Ray's objects "
            f"(cluster.object_store_mib), engines and weights take {needed_bytes >> 20:,}: make it larger (Docker: "
            "--shm-size=8g)"
        )
