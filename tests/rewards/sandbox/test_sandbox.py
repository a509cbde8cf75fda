"""Killable processes: none outlives its owner, none is left as a zombie, a dead idle one blames no item."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from raylign.rewards.base import Item
from raylign.rewards.function import FunctionConfig
from raylign.rewards.sandbox.sandbox import Sandboxed

PIDS = "import os, time\ndef reward(completions, **_): return [float(os.getpid()) for _ in completions]"


def sandboxed(tmp_path: Path, source: str) -> Sandboxed:
    (tmp_path / "mine.py").write_text(source)
    return Sandboxed(FunctionConfig(path=f"{tmp_path}/mine.py:reward", deadline_s=5), "function")


def process_id(reward: Sandboxed) -> int:
    (score,) = reward.score([Item("p", ("a",))])[0]
    assert isinstance(score, float)
    return int(score)


def is_gone(pid: int, deadline_s: float = 5.0) -> bool:
    """Whether the process is ended and reaped, or becomes so before the deadline."""
    ends = time.monotonic() + deadline_s
    while time.monotonic() < ends:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z" and os.getpid() != int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]):
            return True  # an orphan whose new parent is slow to reap
        time.sleep(0.02)
    return False


def test_close_leaves_no_process_and_no_zombie(tmp_path: Path) -> None:
    reward = sandboxed(tmp_path, PIDS)
    pid = process_id(reward)
    reward.close()
    assert not Path(f"/proc/{pid}").exists()


def test_what_the_function_itself_started_ends_too(tmp_path: Path) -> None:
    source = (
        "import subprocess\nstarted = subprocess.Popen(['sleep', '60'])\n"
        "def reward(completions, **_): return [float(started.pid)]"
    )
    reward = sandboxed(tmp_path, source)
    pid = process_id(reward)
    reward.close()
    assert is_gone(pid)


def test_process_killed_while_idle_is_replaced_and_no_item_fails(tmp_path: Path) -> None:
    reward = sandboxed(tmp_path, PIDS)
    pid = process_id(reward)
    os.kill(pid, signal.SIGKILL)
    assert is_gone(pid)
    assert process_id(reward) != pid
    assert not Path(f"/proc/{pid}").exists()
    reward.close()


def test_process_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    made: list[Sandboxed] = []
    thread = threading.Thread(target=lambda: made.append(sandboxed(tmp_path, PIDS)))
    thread.start()
    thread.join()
    pid = process_id(made[0])
    time.sleep(0.1)
    assert process_id(made[0]) == pid
    made[0].close()


@pytest.mark.parametrize("body", ["time.sleep(600)", "re.match('(a+)+b', 'a' * 60)", "return [1.0]"])
def test_process_ends_when_its_owner_is_killed(tmp_path: Path, body: str) -> None:
    (tmp_path / "mine.py").write_text(
        "import os, pathlib, re, time\ndef reward(completions, **_):\n"
        f"    pathlib.Path(r'{tmp_path}/pid').write_text(str(os.getpid()))\n    {body}"
    )
    program = (
        "import time\nfrom raylign.rewards.base import Item\n"
        "from raylign.rewards.registry import FunctionConfig, build_reward\n"
        f"reward = build_reward(FunctionConfig(path=r'{tmp_path}/mine.py:reward', deadline_s=600))\n"
        "reward.score([Item('p', ('a',))])\ntime.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", program])
    try:
        ends = time.monotonic() + 30
        while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()):
            assert owner.poll() is None and time.monotonic() < ends
            time.sleep(0.05)
    finally:
        owner.kill()
        owner.wait(10)
    assert is_gone(int((tmp_path / "pid").read_text()))


def test_interrupted_call_does_not_leave_its_answer_to_the_next(tmp_path: Path) -> None:
    source = (
        "import time\ndef reward(completions, prompt, **_):\n"
        "    time.sleep(1.0 if prompt == 'slow' else 0.0)\n    return [float(prompt == 'slow')]"
    )
    reward = sandboxed(tmp_path, source)
    timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        reward.score([Item("slow", ("a",))])
    timer.join()
    assert reward.score([Item("fast", ("a",))]) == [[0.0]]
    reward.close()
