"""What is wrong with this machine, and what to do about it.

Given a folder where runs will go; prints a table of diagnoses, each ok, warn or bad. Exit code 1 if anything is bad.
Checks that look at the machine only are here; those of the Python environment are in jobs/checks/doctor_environment.py.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from raylign.actors.cluster import interpreter_problem
from raylign.jobs.checks.diagnosis import Diagnosis, enough_memory
from raylign.jobs.checks.leftovers import check_leftovers, clean
from raylign.jobs.checks.machine import GIB, Machine, disk_space, this_machine


class DoctorConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """What to look at."""

    folder: Path = Path("runs")
    """Where runs will be written."""
    imports: bool = True
    """Import every heavy library in a process of its own; takes about half a minute on two cores."""
    cluster: str | None = None
    """Look at every node of a Ray cluster instead, as a job there: the address of its dashboard, such as
    http://127.0.0.1:8265; within the cluster auto, or what `ray start` printed. With --folder on the shared disk."""
    clean: bool = False
    """Look at nothing else: list what killed runs left in shared memory and temporary folders, then remove what no
    process uses. Processes of other containers that share /dev/shm are not seen."""


def doctor(config: DoctorConfig) -> int:
    """Print all diagnoses; 1 if any is bad."""
    from raylign.jobs.checks.doctor_environment import check_environment

    if config.clean:
        return clean()
    if config.cluster is not None:
        from raylign.jobs.checks.doctor_cluster import diagnose_cluster

        found = diagnose_cluster(config.cluster, config.folder)
        return found if isinstance(found, int) else report(found)
    machine = this_machine()
    diagnoses = [
        *check_machine(machine, config.folder),
        check_interpreter(),
        check_containment(),
        *check_environment(machine, config.imports),
        *check_ray(),
        *check_leftovers(),
    ]
    return report(diagnoses)


def report(diagnoses: list[Diagnosis]) -> int:
    """Print them; the exit code."""
    print_diagnoses(diagnoses)
    return 1 if any(diagnosis.status == "bad" for diagnosis in diagnoses) else 0


def check_interpreter() -> Diagnosis:
    """Whether Ray can start processes with this Python."""
    problem = interpreter_problem()
    return Diagnosis("interpreter", "bad" if problem else "ok", sys.executable, problem or "")


def check_machine(machine: Machine, folder: Path) -> Iterator[Diagnosis]:
    """Cores, memory, shared memory, disks, open files, processor."""
    few = machine.num_cores < 2
    yield Diagnosis(
        "cores",
        "warn" if few else "ok",
        f"{machine.num_cores}",
        "engine and learner will share one core and take turns" if few else "",
    )
    yield from check_processor(machine)
    yield enough_memory(
        "memory", machine.free_memory_bytes, 3, 6, f"free of {machine.memory_bytes / GIB:.1f} GiB", "end other programs"
    )
    yield enough_memory(
        "/dev/shm",
        machine.shared_memory_bytes,
        0.6,
        2,
        "free",
        "Ray's objects and weight updates travel here; in Docker: --shm-size=8g",
    )
    for name, path in (("disk of /tmp", Path("/tmp")), (f"disk of {folder}", folder)):
        free_bytes, share_used = disk_space(path)
        if share_used > 0.95:
            yield Diagnosis(name, "bad", f"{share_used:.0%} full", "Ray stops making objects on a disk over 95 % full")
        else:
            yield enough_memory(name, free_bytes, 1, 10, f"free, {share_used:.0%} full", "make room")
    num_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    many = num_files >= 4096 or num_files == resource.RLIM_INFINITY
    yield Diagnosis(
        "open files", "ok" if many else "warn", f"limit {num_files}", "" if many else "ulimit -n 65536: Ray opens many"
    )


def check_containment() -> Diagnosis:
    """How far the kernel helps to end what a reward's code starts."""
    from raylign.rewards.sandbox.keeper import LISTS_CHILDREN, can_adopt_orphans
    from raylign.rewards.sandbox.network import can_leave_network

    topic = "rewards' processes"
    if not can_adopt_orphans():
        advice = "what they start in sessions of their own may stay behind: use a kernel with PR_SET_CHILD_SUBREAPER"
        return Diagnosis(topic, "warn", "end with their process group only", advice)
    how = "the kernel lists children" if LISTS_CHILDREN else "found by looking at every process"
    ending = f"end with all that they start (PR_SET_CHILD_SUBREAPER; {how})"
    if not can_leave_network():
        advice = "this kernel makes no network namespaces for this user: what rewards run may reach the network"
        return Diagnosis(topic, "warn", f"{ending}; they keep their network", advice)
    return Diagnosis(topic, "ok", f"{ending}; without network")


def check_processor(machine: Machine, cpuinfo: Path = Path("/proc/cpuinfo")) -> Iterator[Diagnosis]:
    """vLLM on CPU needs vector instructions."""
    if machine.gpus or platform.machine() != "x86_64" or not cpuinfo.is_file():
        return
    flags = next((set(line.split()) for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), set())
    if "avx512f" in flags:
        yield Diagnosis("processor", "ok", "AVX-512")
    elif "avx2" in flags:
        yield Diagnosis("processor", "warn", "AVX2 without AVX-512", "vLLM works, slower")
    else:
        yield Diagnosis("processor", "bad", "no AVX2", "vLLM does not run here; use another machine")


def check_ray(session_folders: tuple[Path, ...] = (Path("/tmp/ray"),)) -> Iterator[Diagnosis]:
    """Ray that runs already, and what dead Rays left behind."""
    address = os.environ.get("RAY_ADDRESS")
    if address:
        yield Diagnosis("RAY_ADDRESS", "ok", f"{address}: runs join this cluster unless cluster.address is local")
    command_lines = _command_lines()
    raylets = sum("raylet" in words.split(" ")[0] for words in command_lines)
    yield Diagnosis(
        "Ray processes",
        "warn" if raylets and not address else "ok",
        f"{raylets} Ray node(s) running",
        "they hold memory and cores; if nobody needs them, end them" if raylets and not address else "",
    )
    sessions = [
        path
        for folder in session_folders
        for path in folder.glob("session_2*")
        if path.is_dir() and not path.is_symlink() and os.access(path, os.R_OK)
    ]
    stale = [path for path in sessions if not any(str(path) in words for words in command_lines)]
    size = sum(file.lstat().st_size for path in stale for file in path.rglob("*") if file.is_file())
    if stale:
        yield Diagnosis(
            "old Ray sessions",
            "warn" if size > GIB else "ok",
            f"{len(stale)}, {size / GIB:.2f} GiB, such as {stale[0]}",
            "nothing uses them: remove the folders",
        )


def _command_lines() -> list[str]:
    """Of all processes that may be looked at."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # it has ended meanwhile
            continue
    return [line for line in lines if line]


def print_diagnoses(diagnoses: list[Diagnosis]) -> None:
    """To the terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    color = {"ok": "green", "warn": "yellow", "bad": "red"}
    table = Table("topic", "", "found", "what to do")
    for each in diagnoses:
        table.add_row(
            escape(each.topic), f"[{color[each.status]}]{each.status}[/]", escape(each.finding), escape(each.advice)
        )
    Console().print(table)
