"""Copies of the warm process: each is what a plain start would have made, and nothing outlives its owner."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from raylign.actors.warm.copies import ADDRESS_VARIABLE, FIRST_JOB, WarmContext, fork_script, may_be_copied
from raylign.actors.warm.process import WarmProcess
from tests.patience import HANGS_S

ABOUT_ITSELF = """
import json, os, sys
threads, modules = len(os.listdir("/proc/self/task")), list(sys.modules)
import numpy, ray, signal, torch
from ray._raylet import WorkerID
facts = {
    "threads": threads, "modules": modules, "words": sys.argv, "folder": os.getcwd(),
    "variable": os.environ.get("SOME_VARIABLE"), "environment": len(os.environ), "torch": torch.get_num_threads(),
    "drawn": [WorkerID.from_random().hex(), float(numpy.random.random())], "cores": sorted(os.sched_getaffinity(0)),
    "niceness": os.nice(0), "interruptible": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
}
print(json.dumps(facts), file=open(sys.argv[1], "w"))
sys.exit(3)
"""


@pytest.fixture(scope="module")
def warm() -> Iterator[WarmProcess]:
    process = WarmProcess()
    yield process
    process.stop()


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "about.py"
    path.write_text(ABOUT_ITSELF)
    return path


def facts_of_copy(warm: WarmProcess, script: Path, name: str, **variables: str) -> dict[str, Any]:
    answer = script.with_name(name)
    environment = {**os.environ, ADDRESS_VARIABLE: warm.address, **variables}
    pid, status, life = fork_script([str(script), str(answer)], environment)
    assert pid != os.getpid()
    assert int.from_bytes(os.read(status, 8), sys.byteorder, signed=True) == 3
    os.close(status)
    os.close(life)
    facts: dict[str, Any] = json.loads(answer.read_text())
    return facts | {"expected_environment": len(environment)}


def test_a_copy_is_in_the_surroundings_of_whoever_asked(
    warm: WarmProcess, script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(script.parent)
    facts = facts_of_copy(warm, script, "one", SOME_VARIABLE="here", OMP_NUM_THREADS="1")
    assert facts["words"] == [str(script), str(script.with_name("one"))]
    assert facts["folder"] == str(script.parent)
    assert facts["variable"] == "here"
    assert facts["environment"] == facts["expected_environment"]
    assert facts["cores"] == sorted(os.sched_getaffinity(0))
    assert facts["niceness"] == os.nice(0)
    assert facts["torch"] == 1
    assert facts["interruptible"]


def test_what_is_copied_has_one_thread_and_all_that_is_slow_to_import(warm: WarmProcess, script: Path) -> None:
    facts = facts_of_copy(warm, script, "one", OMP_NUM_THREADS="1")
    assert facts["threads"] == 1
    assert {"torch", "vllm.v1.worker.cpu_worker", "deepspeed", "ray.train.torch"} <= set(facts["modules"])
    assert "raylign.rollout.weights.transfer" not in facts["modules"]  # an engine's own imports tie it to its owner
    assert psutil.Process(warm.pid).num_threads() == 1


def test_copies_draw_different_numbers(warm: WarmProcess, script: Path) -> None:
    one, another = (facts_of_copy(warm, script, name)["drawn"] for name in ("one", "another"))
    assert one[0] != another[0]
    assert one[1] != another[1]


def test_spawned_children_are_copies_with_variables_of_the_moment(
    warm: WarmProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ADDRESS_VARIABLE, warm.address)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("SOME_VARIABLE", "now")
    code = f"open({str(tmp_path / 'answer')!r}, 'w').write(os.environ['SOME_VARIABLE'] + str(os.getppid()))"
    child = WarmContext().Process(target=exec, args=(f"import os; {code}",))
    child.start()
    child.join(HANGS_S)
    assert child.exitcode == 0
    assert (tmp_path / "answer").read_text() == f"now{warm.pid}"


def test_a_child_that_is_killed_tells_its_exit_code(warm: WarmProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESS_VARIABLE, warm.address)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    child = WarmContext().Process(target=time.sleep, args=(6000,))
    child.start()
    assert child.is_alive()
    assert child in multiprocessing.active_children()
    child.kill()
    child.join(HANGS_S)
    assert child.exitcode == -signal.SIGKILL


def test_without_a_warm_process_children_are_started_from_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ADDRESS_VARIABLE, str(tmp_path / "nobody"))
    child = WarmContext().Process(target=os._exit, args=(7,))  # libraries put another `sys.exit` in its place
    child.start()
    child.join(HANGS_S)
    assert child.exitcode == 7


def test_copies_are_for_one_job_and_for_threads_that_wait_alike() -> None:
    assert may_be_copied({})
    assert may_be_copied({"OMP_NUM_THREADS": "1"})
    assert may_be_copied({"OMP_NUM_THREADS": "8", "OMP_WAIT_POLICY": "passive"})
    assert not may_be_copied({"OMP_NUM_THREADS": "8"})
    assert may_be_copied({"RAY_JOB_ID": FIRST_JOB})
    assert not may_be_copied({"RAY_JOB_ID": "02000000"})


def test_the_warm_process_ends_with_its_owner_even_by_kill() -> None:
    code = "from raylign.actors.warm.process import WarmProcess; print(WarmProcess().pid, flush=True); input()"
    owner = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    process = psutil.Process(int(owner.stdout.readline()))
    owner.kill()
    owner.communicate()
    process.wait(HANGS_S)  # it imports first
    assert not process.is_running()
