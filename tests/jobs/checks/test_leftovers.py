"""`doctor --clean`: what killed engines and runs left is listed with its size and removed, and nothing else is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raylign.jobs.checks.leftovers import _size, clean, find_leftovers
from raylign.jobs.cli import run_command_line
from raylign.rollout.weights.buckets import AdapterFolder

ENGINE = """
import sys, time
from multiprocessing import shared_memory, resource_tracker
from raylign.rollout.owned_folders import OwnedFolder
from raylign.rollout.weights.buckets import AdapterFolder, SharedMemorySender
import torch
from pathlib import Path
place = Path(sys.argv[1])
sender = SharedMemorySender(1 << 20, place)
sender.export(1, [("weight", torch.zeros(100_000))])
folders = [AdapterFolder(place), OwnedFolder("raylign-", place), OwnedFolder("raylign-train-", place)]
resource_tracker.register = lambda *_: None  # its process too is killed with the engine
memory = shared_memory.SharedMemory(create=True, size=1 << 20)
memory.buf[:] = bytes(1 << 20)
print(memory.name, flush=True)
time.sleep(6000)
"""


def test_what_a_killed_engine_left_is_listed_then_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = subprocess.Popen([sys.executable, "-c", ENGINE, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert engine.stdout is not None
    try:
        memory = Path("/dev/shm") / engine.stdout.readline().strip()
        assert {each.path for each in find_leftovers([tmp_path])} & {memory, *tmp_path.iterdir()} == set()
        engine.send_signal(signal.SIGKILL)
        engine.wait()
        left = {memory, *tmp_path.iterdir()}
        assert len(left) == 5

        assert {each.path for each in find_leftovers([tmp_path])} & left == left
        here = tmp_path / "memory"  # the test removes from a place of its own alone
        here.mkdir()
        moved = here / memory.name
        moved.write_bytes(memory.read_bytes())
        memory.unlink()
        mine = AdapterFolder(tmp_path)
        assert clean([tmp_path], here) == 0
    finally:
        engine.kill()
    *listed, last = capsys.readouterr().out.splitlines()
    assert len(listed) == 5
    assert any("1.0 MiB" in line and str(moved) in line for line in listed)
    assert last.startswith("removed 5 of 5, ")
    assert not moved.exists()
    assert [path for path in tmp_path.iterdir() if path.name.startswith("raylign-")] == [mine.path]
    assert clean([tmp_path], here) == 0
    assert capsys.readouterr().out == "nothing is left by dead runs\n"


def test_folders_of_earlier_versions_go_after_an_hour_and_names_that_a_user_chose_never(tmp_path: Path) -> None:
    earlier, rays, chosen = "raylign-train-k3_9xq2a", "raylign-ab12cd34", ("raylign-results", "raylign-mydata01")
    for name in (earlier, rays, *chosen):
        (tmp_path / name).mkdir()
    (tmp_path / rays / "session_2026-01-01").mkdir()
    assert find_leftovers([tmp_path], tmp_path) == []
    for path in tmp_path.iterdir():
        os.utime(path, (time.time() - 4000,) * 2)
    assert {each.path.name for each in find_leftovers([tmp_path], tmp_path)} == {earlier, rays}


def test_the_command_looks_at_nothing_else(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("raylign.jobs.checks.leftovers.find_leftovers", lambda *_: [])
    assert run_command_line(["doctor", "--clean"]) == 0
    assert capsys.readouterr().out == "nothing is left by dead runs\n"


def test_what_goes_while_it_is_looked_at_takes_no_room(tmp_path: Path) -> None:
    assert _size(tmp_path / "gone meanwhile") == 0
