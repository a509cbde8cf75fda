"""What a machine or cluster has free for commands, and who has which part of it.

Given its cores, GPUs and memory; gives each command a share of its own, or None while there is none. On this machine a
share names cores and GPUs, so that two commands never compute on the same ones; on a cluster Ray places the roles.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from raylign.actors.cluster import ClusterConfig, ray_cluster
from raylign.jobs.checks.machine import Machine
from raylign.jobs.sweep.manifest import Resources


@dataclass(frozen=True)
class Share:
    """What one command has."""

    cores: tuple[int, ...]
    """Numbers of cores; on a cluster only their count says anything."""
    gpus: tuple[str, ...]
    memory_bytes: int = 0


@dataclass
class Room:
    """What is free now."""

    cores: list[int]
    gpus: list[str]
    memory_bytes: int
    is_here: bool = True
    """False: a cluster, where shares are only counted."""
    all_cores: int = field(init=False)
    all_gpus: int = field(init=False)

    def __post_init__(self) -> None:
        self.all_cores, self.all_gpus = len(self.cores), len(self.gpus)

    @classmethod
    def of_machine(cls, machine: Machine) -> Room:
        """Of this one."""
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = [str(index) for index in range(len(machine.gpus))] if visible is None else visible.split(",")
        return cls(sorted(os.sched_getaffinity(0)), gpus[: len(machine.gpus)], machine.free_memory_bytes)

    @classmethod
    def of_cluster(cls, address: str) -> Room:
        """Of a cluster, as it is now; ValueError where nobody answers."""
        with ray_cluster(ClusterConfig(address=address)) as found:
            pass
        gpus = [str(index) for index in range(int(found.get("GPU", 0)))]
        return cls(list(range(int(found.get("CPU", 1)))), gpus, int(found.get("memory", 0)), is_here=False)

    def take(self, wanted: Resources, num_waiting: int, is_alone: bool) -> Share | None:
        """A share for one command. `num_waiting`: commands that could start now, this one among them: what is free is
        shared out among as many of them as fit. `is_alone`: nothing else runs, so it may have whatever there is."""
        cores, gpus, memory = self._bounded(wanted)
        if not is_alone and (cores > len(self.cores) or gpus > len(self.gpus) or memory > self.memory_bytes):
            return None
        if not self.all_gpus:  # on GPUs computing is theirs, and cores are plenty
            fit = max(1, len(self.cores) // cores)
            cores = max(cores, len(self.cores) // min(num_waiting, fit))
        share = Share(tuple(self.cores[:cores]), tuple(self.gpus[:gpus]), memory)
        del self.cores[: len(share.cores)]
        del self.gpus[: len(share.gpus)]
        self.memory_bytes -= memory
        return share

    def give_back(self, share: Share) -> None:
        """The command has ended."""
        self.cores = sorted([*self.cores, *share.cores])
        self.gpus = sorted([*self.gpus, *share.gpus], key=_number)
        self.memory_bytes += share.memory_bytes

    def _bounded(self, wanted: Resources) -> tuple[int, int, int]:
        """Nobody waits for more than there is: such a command has everything, and its own checks say the rest."""
        return min(wanted.cores, self.all_cores), min(wanted.gpus, self.all_gpus), wanted.memory_bytes


def cluster_address(addresses: Iterable[str]) -> str | None:
    """The cluster that commands join; None where they run on this machine."""
    for address in addresses:
        if address not in ("auto", "local"):
            return address
        if address == "auto" and "RAY_ADDRESS" in os.environ:
            return os.environ["RAY_ADDRESS"]
    return None


def _number(gpu: str) -> tuple[int, str]:
    return (int(gpu), "") if gpu.isdigit() else (1 << 30, gpu)
