"""What this machine has: cores, memory, GPUs, disk.

Given nothing; gives a `Machine`, in a second and without torch. `plan` holds a run against it, `doctor` reports it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

GIB = 2**30
NVIDIA_SMI_DEADLINE_S = 10.0


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU as the driver sees it."""

    name: str
    memory_bytes: int
    free_bytes: int
    driver: str


@dataclass(frozen=True)
class Machine:
    """One machine, as this process may use it."""

    num_cores: int
    """Cores this process may run on."""
    memory_bytes: int
    """The container's limit where there is one."""
    free_memory_bytes: int
    shared_memory_bytes: int
    """Free space in /dev/shm."""
    gpus: tuple[Gpu, ...]


def this_machine() -> Machine:
    """Measure it."""
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(meminfo[key].split()[0]) << 10 for key in ("MemTotal", "MemAvailable"))
    limit = _container_limit_bytes()
    if limit is not None and limit[0] < total:
        total, free = limit[0], min(free, limit[0] - limit[1])
    return Machine(
        num_cores=len(os.sched_getaffinity(0)),
        memory_bytes=total,
        free_memory_bytes=free,
        shared_memory_bytes=disk_space(Path("/dev/shm"))[0],
        gpus=_gpus(),
    )


def disk_space(path: Path) -> tuple[int, float]:
    """Free bytes, and the share in use, of the disk where `path` is or will be."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    usage = shutil.disk_usage(path)
    return usage.free, 1 - usage.free / max(1, usage.total)


def _container_limit_bytes() -> tuple[int, int] | None:
    """Limit and use of this container's memory, cgroup version 2 or 1."""
    for limit_file, use_file in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        if Path(limit_file).is_file():
            limit = Path(limit_file).read_text().strip()
            return (int(limit), int(Path(use_file).read_text())) if limit.isdigit() else None
    return None


def _gpus() -> tuple[Gpu, ...]:
    """GPUs that this process may use; none where there is no driver."""
    if not shutil.which("nvidia-smi"):
        return ()
    query = ["nvidia-smi", "--query-gpu=index,uuid,name,memory.total,memory.free,driver_version"]
    try:
        answer = subprocess.run(
            [*query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=NVIDIA_SMI_DEADLINE_S,
            check=True,
        )
    except (subprocess.SubprocessError, OSError):
        return ()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    wanted = None if visible is None else {word.strip() for word in visible.split(",")}
    gpus = []
    for line in answer.stdout.splitlines():
        index, uuid, name, total_mib, free_mib, driver = (word.strip() for word in line.split(","))
        if (wanted is None or index in wanted or uuid in wanted) and total_mib.isdigit():
            gpus.append(Gpu(name, int(total_mib) << 20, int(free_mib) << 20, driver))
    return tuple(gpus)
