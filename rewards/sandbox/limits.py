"""What a reward's process may see and use: its environment, and its limits.

Given the reward's config, gives the environment to start it with (built up from names, never copied) and the
`Limits` that travel to it as JSON. Each limit has the name of its key, which every failure repeats.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from raylign.rewards.base import KillableConfig
from raylign.rewards.sandbox.network import leave_network

GIB = 2**30

NEEDED_NAMES = (
    # the program and its libraries
    *("PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "CUDA_VISIBLE_DEVICES", "CUDA_HOME"),
    # the user's folders and language
    *("HOME", "USER", "LOGNAME", "TMPDIR", "LANG", "LC_ALL", "LC_CTYPE", "TZ"),
    # where data and models lie, and that nothing is fetched
    *("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_DATASETS_CACHE", "TRANSFORMERS_OFFLINE", "XDG_CACHE_HOME"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "NLTK_DATA", "PYTHONHASHSEED", "PYTHONUTF8"),
    # how the test suite follows subprocesses
    *("COVERAGE_PROCESS_START",),
)
"""Variables that a program needs and that hold no secret."""

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""A thread for each core of a large machine would fill the address space by its stacks alone."""


def child_environment(listed_names: Sequence[str]) -> dict[str, str]:
    """What the process is given: the needed names, those that the reward's config lists, and what we set."""
    environment = {name: "1" for name in ONE_THREAD}
    names = (*NEEDED_NAMES, *ONE_THREAD, *listed_names)
    environment |= {name: os.environ[name] for name in names if name in os.environ}
    # With -P and the whole path the child sees the packages that we see, and no others.
    environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    return environment


@dataclass(frozen=True)
class Limits:
    """What the processes of one reward may use; None: no limit."""

    max_memory_gib: float | None
    max_processes: int | None
    max_file_gib: float | None
    max_cpu_s: float | None
    network: bool = True

    @classmethod
    def of(cls, config: KillableConfig) -> Limits:
        return cls(config.max_memory_gib, config.max_processes, config.max_file_gib, config.max_cpu_s, config.network)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Limits:
        return cls(**json.loads(text))

    def hold_here(self) -> None:
        """Set those that the kernel keeps, for this process and all that it starts."""
        if not self.network:
            leave_network()
        _lower(resource.RLIMIT_CORE, 0)
        if self.max_memory_gib is not None:
            # Mapped is more than used: libraries reserve what they never touch.
            _lower(resource.RLIMIT_AS, int(2 * self.max_memory_gib * GIB))
        if self.max_file_gib is not None:
            _lower(resource.RLIMIT_FSIZE, int(self.max_file_gib * GIB))

    def start_item(self) -> None:
        """Count CPU seconds from here; at the limit the kernel ends the process by SIGXCPU."""
        if self.max_cpu_s is not None:
            usage = resource.getrusage(resource.RUSAGE_SELF)
            hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
            wanted = int(usage.ru_utime + usage.ru_stime + self.max_cpu_s) + 1
            resource.setrlimit(resource.RLIMIT_CPU, (_at_most(wanted, hard), hard))

    def describe(self, kind: str) -> str:
        """` (max_file_gib is 1)`: the key of the limit behind a failure of this kind; empty for other kinds."""
        value: Mapping[str, tuple[str, float | None]] = {
            "memory": ("max_memory_gib", self.max_memory_gib),
            "processes": ("max_processes", self.max_processes),
            "file_size": ("max_file_gib", self.max_file_gib),
            "cpu": ("max_cpu_s", self.max_cpu_s),
            "network": ("network", None),
        }
        if kind not in value:
            return ""
        key, limit = value[kind]
        if kind == "network":
            return "" if self.network else " (network is false)"
        return f" ({key} is {limit:g})" if limit is not None else ""


def _lower(which: int, value: int) -> None:
    hard = resource.getrlimit(which)[1]
    lowered = _at_most(value, hard)
    resource.setrlimit(which, (lowered, lowered))


def _at_most(value: int, hard: int) -> int:
    return value if hard == resource.RLIM_INFINITY else min(value, hard)
