"""Whether the Python environment is the one that raylign is tested with.

Given the machine; gives diagnoses of Python, library versions and imports, the compiler, CUDA and the Hugging Face hub.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from raylign.jobs.checks.diagnosis import Diagnosis
from raylign.jobs.checks.machine import Machine

TESTED_PYTHON = (3, 11)
TESTED_VERSIONS = {
    "torch": "2.13.0",
    "vllm": "0.32.0",
    "ray": "2.60.0",
    "deepspeed": "0.19.8",
    "transformers": "5.19.0",
}
"""As in requirements/*.txt; a test holds them together."""
CONFLICTING_PACKAGES = ("torchvision", "torchaudio", "torchcodec")
"""Needed for nothing here; builds for CUDA break `import transformers` beside a CPU torch."""
IMPORT_DEADLINE_S = 180.0
REINSTALL = "`make install` brings the tested version"


def check_environment(machine: Machine, imports: bool) -> Iterator[Diagnosis]:
    """All diagnoses of the environment."""
    versions = installed_versions()
    yield check_python(sys.version_info[:2])
    yield from check_versions(versions)
    yield from check_conflicts(versions)
    yield from check_compiler()
    if imports:
        yield from check_imports(machine, versions)
    yield check_cuda_build(machine, versions.get("torch", ""))
    yield check_hub()


def installed_versions() -> dict[str, str]:
    """By import name; those that are not installed are left out."""
    versions: dict[str, str] = {}
    for name in (*TESTED_VERSIONS, *CONFLICTING_PACKAGES):
        for distribution in (name, f"{name}-cpu"):
            try:
                versions[name] = importlib.metadata.version(distribution)
            except importlib.metadata.PackageNotFoundError:
                continue
    return versions


def check_python(version: tuple[int, int]) -> Diagnosis:
    """The locks are made for one Python."""
    found, tested = (".".join(map(str, each)) for each in (version, TESTED_PYTHON))
    if version == TESTED_PYTHON:
        return Diagnosis("Python", "ok", found)
    return Diagnosis(
        "Python",
        "bad" if version < TESTED_PYTHON else "warn",
        found,
        f"the locked packages are tested with Python {tested}: make a virtual environment with it",
    )


def check_versions(versions: Mapping[str, str]) -> Iterator[Diagnosis]:
    """Installed against tested."""
    for name, tested in TESTED_VERSIONS.items():
        found = versions.get(name)
        if found is None:
            yield Diagnosis(name, "bad", "not installed", REINSTALL)
        elif found.split("+")[0] != tested:
            yield Diagnosis(name, "warn", f"{found}; tested is {tested}", REINSTALL)
        else:
            yield Diagnosis(name, "ok", found)


def check_conflicts(versions: Mapping[str, str]) -> Iterator[Diagnosis]:
    """Builds of torchvision and the like that do not fit a CPU torch."""
    on_cpu = versions.get("torch", "").endswith("+cpu")
    for name in CONFLICTING_PACKAGES:
        if on_cpu and name in versions and not versions[name].endswith("+cpu"):
            yield Diagnosis(
                name, "bad", f"{versions[name]} beside a CPU torch breaks imports", f"pip uninstall {name}: not needed"
            )


def check_compiler() -> Iterator[Diagnosis]:
    """DeepSpeed compiles its shared-memory operation on first use."""
    missing = []
    if not (shutil.which("g++") or shutil.which("c++")):
        missing.append("g++")
    if not shutil.which("ninja") and importlib.util.find_spec("ninja") is None:
        missing.append("ninja")
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        missing.append("Python.h (python3-dev)")
    if missing:
        yield Diagnosis(
            "compiler",
            "warn",
            f"missing: {', '.join(missing)}",
            "DeepSpeed compiles with them when several ranks learn on CPU; install them or keep one rank",
        )
    else:
        yield Diagnosis("compiler", "ok", "g++, ninja and Python's headers")


def check_imports(machine: Machine, versions: Mapping[str, str]) -> Iterator[Diagnosis]:
    """Import each library in a process of its own: a broken one cannot hide another."""
    statements = {name: f"import {name}" for name in TESTED_VERSIONS if name in versions}
    if "vllm" in statements:
        statements["vllm"] = "import vllm.v1.engine.async_llm"  # the part that loads compiled code
    if machine.gpus and "torch" in statements:
        statements["torch"] += "; torch.zeros(1, device='cuda')"
    with ThreadPoolExecutor(max_workers=2) as pool:
        errors = dict(zip(statements, pool.map(_error_of, statements.values()), strict=True))
    broken = {name: error for name, error in errors.items() if error}
    for name, error in broken.items():
        yield Diagnosis(f"import {name}", "bad", error, REINSTALL)
    if not broken:
        yield Diagnosis("imports", "ok", ", ".join(statements))


def _error_of(statement: str) -> str:
    """The last words of a Python that runs `statement`; empty if all went well."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", statement], capture_output=True, text=True, timeout=IMPORT_DEADLINE_S
        )
    except subprocess.TimeoutExpired:
        return f"`{statement}` did not end within {IMPORT_DEADLINE_S:.0f} s"
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"`{statement}` ended with exit code {done.returncode}"


def check_cuda_build(machine: Machine, torch_version: str) -> Diagnosis:
    """GPUs and a torch that can use them, or neither."""
    on_cpu = torch_version.endswith("+cpu")
    if not machine.gpus:
        if on_cpu or not torch_version:
            return Diagnosis("GPUs", "ok", "none; runs on CPU")
        return Diagnosis(
            "GPUs", "warn", f"none visible, and torch {torch_version} is a CUDA build", "`make install FLAVOUR=cpu`"
        )
    names = ", ".join(
        f"{gpu.name} ({gpu.free_bytes >> 30} of {gpu.memory_bytes >> 30} GiB free)" for gpu in machine.gpus
    )
    finding = f"{len(machine.gpus)}: {names}; driver {machine.gpus[0].driver}"
    if on_cpu:
        return Diagnosis(
            "GPUs", "warn", f"{finding}; torch {torch_version} ignores them", "`make install FLAVOUR=cuda`"
        )
    if any(gpu.free_bytes < gpu.memory_bytes // 2 for gpu in machine.gpus):
        return Diagnosis("GPUs", "warn", finding, "most memory of a GPU is taken: nvidia-smi names the programs")
    return Diagnosis("GPUs", "ok", finding)


def check_hub() -> Diagnosis:
    """Whether models and data can be downloaded."""
    from raylign.rollout.hub import hub_is_reachable

    offline = os.environ.get("HF_HUB_OFFLINE")
    if offline and offline != "0":
        return Diagnosis("Hugging Face hub", "ok", f"HF_HUB_OFFLINE={offline}: only folders and what is in the cache")
    if hub_is_reachable():
        return Diagnosis("Hugging Face hub", "ok", "answers")
    return Diagnosis(
        "Hugging Face hub",
        "warn",
        "does not answer",
        "only local folders and files work; HF_HUB_OFFLINE=1 saves the waiting",
    )
