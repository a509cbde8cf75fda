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
from tests.patience import HANGS_S, is_gone, wait_until

PIDS = "import os, time\ndef reward(completions, **_): return [float(os.getpid()) for _ in completions]"


def sandboxed(tmp_path: Path, source: str) -> Sandboxed:
    (tmp_path / "mine.py").write_text(source)
    return Sandboxed(FunctionConfig(path=f"{tmp_path}/mine.py:reward", deadline_s=HANGS_S), "function")


def process_id(reward: Sandboxed) -> int:
    (score,) = reward.score([Item("p", ("a",))])[0]
    assert isinstance(score, float)
    return int(score)


def test_close_leaves_no_process_and_no_zombie(tmp_path: Path) -> None:
    reward = sandboxed(tmp_path, PIDS)
    pid = process_id(reward)
    reward.close()
    assert not Path(f"/proc/{pid}").exists()


def test_what_the_function_itself_started_ends_too(tmp_path: Path) -> None:
    source = (
        "import subprocess\nstarted = subprocess.Popen(['sleep', '6000'])\n"
        "def reward(completions, **_): return [float(started.pid)]"
    )
    reward = sandboxed(tmp_path, source)
    pid = process_id(reward)
    reward.close()
    wait_until(lambda: is_gone(pid), "end of what the function started", others=[pid])


def test_process_killed_while_idle_is_replaced_and_no_item_fails(tmp_path: Path) -> None:
    reward = sandboxed(tmp_path, PIDS)
    pid = process_id(reward)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: is_gone(pid), "end of the killed process", others=[pid])
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


@pytest.mark.parametrize("body", ["time.sleep(6000)", "re.match('(a+)+b', 'a' * 60)", "return [1.0]"])
def test_process_ends_when_its_owner_is_killed(tmp_path: Path, body: str) -> None:
    (tmp_path / "mine.py").write_text(
        "import os, pathlib, re, time\ndef reward(completions, **_):\n"
        f"    pathlib.Path(r'{tmp_path}/pid').write_text(str(os.getpid()))\n    {body}"
    )
    program = (
        "import time\nfrom raylign.rewards.base import Item\n"
        "from raylign.rewards.registry import FunctionConfig, build_reward\n"
        f"reward = build_reward(FunctionConfig(path=r'{tmp_path}/mine.py:reward', deadline_s=6000))\n"
        "reward.score([Item('p', ('a',))])\ntime.sleep(6000)"
    )
    owner = subprocess.Popen([sys.executable, "-c", program])
    try:
        written = tmp_path / "pid"
        wait_until(lambda: written.exists() and bool(written.read_text()), "process id of the child", [owner])
    finally:
        owner.kill()
        owner.wait()
    pid = int(written.read_text())
    wait_until(lambda: is_gone(pid), "end of the child", others=[pid])


def test_interrupted_call_does_not_leave_its_answer_to_the_next(tmp_path: Path) -> None:
    source = (
        "import pathlib, time\ndef reward(completions, prompt, **_):\n"
        f"    if prompt == 'slow':\n        pathlib.Path(r'{tmp_path}/began').touch()\n        time.sleep(6000)\n"
        "    return [float(prompt == 'slow')]"
    )
    reward = sandboxed(tmp_path, source)

    main_thread = threading.get_ident()

    def interrupt() -> None:
        wait_until((tmp_path / "began").exists, "call of the function")
        signal.pthread_kill(main_thread, signal.SIGINT)  # the one that waits, and would not wake for another's

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        reward.score([Item("slow", ("a",))])
    thread.join()
    assert reward.score([Item("fast", ("a",))]) == [[0.0]]
    reward.close()
