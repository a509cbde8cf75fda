"""What doctor says about machines that lack something."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from raylign.jobs.checks.diagnosis import Diagnosis
from raylign.jobs.checks.doctor import check_containment, check_machine, check_processor, check_ray
from raylign.jobs.checks.doctor_environment import (
    TESTED_VERSIONS,
    _error_of,
    check_compiler,
    check_conflicts,
    check_cuda_build,
    check_hub,
    check_python,
    check_versions,
)
from raylign.jobs.checks.machine import GIB, Gpu, Machine, this_machine
from raylign.jobs.cli import run_command_line

GPU = Gpu("a GPU", 80 * GIB, 79 * GIB, "600.1")
GOOD = Machine(4, 32 * GIB, 20 * GIB, 16 * GIB, ())


def by_topic(diagnoses: list[Diagnosis]) -> dict[str, Diagnosis]:
    return {each.topic: each for each in diagnoses}


def test_this_machine_is_measured() -> None:
    machine = this_machine()
    assert machine.num_cores >= 1
    assert 0 < machine.free_memory_bytes <= machine.memory_bytes


def test_scarce_memory_cores_and_shared_memory_are_named(tmp_path: Path) -> None:
    poor = Machine(1, 4 * GIB, 1 * GIB, 64 << 20, ())
    found = by_topic(list(check_machine(poor, tmp_path / "runs")))
    assert {topic: found[topic].status for topic in ("cores", "memory", "/dev/shm")} == {
        "cores": "warn",
        "memory": "bad",
        "/dev/shm": "bad",
    }
    assert "--shm-size" in found["/dev/shm"].advice
    good = by_topic(list(check_machine(GOOD, tmp_path / "runs")))
    assert [good[topic].status for topic in ("cores", "memory", "/dev/shm")] == ["ok", "ok", "ok"]
    assert not good["memory"].advice


@pytest.mark.parametrize(("flags", "status"), [("sse avx2 avx512f", "ok"), ("sse avx2", "warn"), ("sse", "bad")])
def test_processors_without_vector_instructions(tmp_path: Path, flags: str, status: str) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\nflags : {flags}\n")
    found = list(check_processor(GOOD, cpuinfo))
    assert not found or found[0].status == status  # other architectures are not judged


def test_python_versions_other_than_the_tested_one() -> None:
    assert [check_python(version).status for version in ((3, 10), (3, 11), (3, 13))] == ["bad", "ok", "warn"]


def test_missing_and_other_versions_are_named() -> None:
    versions = {**TESTED_VERSIONS, "torch": TESTED_VERSIONS["torch"] + "+cpu", "ray": "2.0.0"}
    del versions["vllm"]
    found = by_topic(list(check_versions(versions)))
    assert {topic: each.status for topic, each in found.items()} == {
        **dict.fromkeys(TESTED_VERSIONS, "ok"),
        "vllm": "bad",
        "ray": "warn",
    }


@pytest.mark.parametrize("flavour", ["cpu", "cuda"])
def test_tested_versions_are_those_of_the_locks(flavour: str) -> None:
    lock = (Path(__file__).parents[3] / "requirements" / f"{flavour}.txt").read_text()
    for name, version in TESTED_VERSIONS.items():
        assert re.search(rf"^{name}(-cpu)?=={re.escape(version)}(\+cpu)?$", lock, re.MULTILINE), name


def test_builds_that_do_not_fit_a_cpu_torch() -> None:
    (found,) = check_conflicts({"torch": "2.13.0+cpu", "torchvision": "0.28.0", "torchaudio": "2.11.0+cpu"})
    assert (found.topic, found.status) == ("torchvision", "bad") and "pip uninstall torchvision" in found.advice
    assert not list(check_conflicts({"torch": "2.13.0", "torchvision": "0.28.0"}))


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = check_compiler()
    assert found.status == "warn" and "g++" in found.finding


def test_a_broken_import_gives_its_last_words() -> None:
    assert _error_of("import json") == ""
    assert _error_of("import no_such_module") == "ModuleNotFoundError: No module named 'no_such_module'"
    assert "exit code 3" in _error_of("import os; os._exit(3)")


def test_gpus_and_builds_that_do_not_match() -> None:
    with_gpu = Machine(4, 32 * GIB, 20 * GIB, 16 * GIB, (GPU,))
    assert check_cuda_build(GOOD, "2.13.0+cpu").status == "ok"
    assert "FLAVOUR=cpu" in check_cuda_build(GOOD, "2.13.0").advice
    assert "FLAVOUR=cuda" in check_cuda_build(with_gpu, "2.13.0+cpu").advice
    assert check_cuda_build(with_gpu, "2.13.0").status == "ok"
    taken = Machine(4, 32 * GIB, 20 * GIB, 16 * GIB, (Gpu("a GPU", 80 * GIB, 9 * GIB, "600.1"),))
    assert "nvidia-smi" in check_cuda_build(taken, "2.13.0").advice


def test_offline_mode_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert check_hub() == Diagnosis("Hugging Face hub", "ok", "HF_HUB_OFFLINE=1: only folders and what is in the cache")


def test_a_hub_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert check_hub().status == "warn"


def test_sessions_of_dead_rays_are_told_and_live_ones_are_not(tmp_path: Path) -> None:
    for name in ("session_2026-01-01_dead", "session_2026-01-02_alive"):
        (tmp_path / name).mkdir()
    program = "import sys; print('runs', flush=True); sys.stdin.read()"
    alive = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "session_2026-01-02_alive")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert alive.stdout is not None
    alive.stdout.readline()  # while it is being started it has no command line
    try:
        found = by_topic(list(check_ray((tmp_path,))))["old Ray sessions"]
    finally:
        alive.communicate()
    assert found.finding.startswith("1, ") and found.finding.endswith("session_2026-01-01_dead")


def test_how_far_the_kernel_helps_to_end_what_rewards_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is this kernel's; test_limits.py tries both ways of finding children."""
    assert check_containment().status == "ok"
    monkeypatch.setattr("raylign.rewards.sandbox.keeper.LISTS_CHILDREN", False)
    found = check_containment()
    assert (found.status, "found by looking at every process" in found.finding) == ("ok", True)
    monkeypatch.setattr("raylign.rewards.sandbox.keeper.can_adopt_orphans", lambda: False)
    found = check_containment()
    assert (found.status, found.finding) == ("warn", "end with their process group only")
    assert "PR_SET_CHILD_SUBREAPER" in found.advice


def test_the_command_prints_a_table_and_its_exit_code_says_whether_anything_is_bad(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code = run_command_line(["doctor", "--imports", "false", "--folder", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "memory" in printed and "transformers" in printed
    assert code == int("│ bad" in printed)
