"""What a reward's code tries against the run: none of it succeeds, each is counted as a failure that names it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raylign.rewards.base import Item, Reward, RewardFailure
from raylign.rewards.function import FunctionConfig
from raylign.rewards.registry import build_reward
from raylign.rewards.sandbox import keeper
from raylign.rewards.sandbox.network import can_leave_network
from tests.patience import is_gone, wait_until

Build = Callable[..., Reward]


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """A reward with this body; closed at the end."""
    built: list[Reward] = []

    def _build(body: str, **settings: Any) -> Reward:
        lines = "\n".join(f"    {line}" for line in body.splitlines())
        source = f"import os, sys, time\ndef reward(completions, prompt, **_):\n{lines}\n"
        (tmp_path / "mine.py").write_text(source)
        config = FunctionConfig(path=f"{tmp_path}/mine.py:reward", **{"deadline_s": 20, **settings})
        built.append(build_reward(config))
        return built[-1]

    yield _build
    for reward in built:
        reward.close()


def outcome(reward: Reward, prompt: str = "p") -> float | RewardFailure:
    ((score,),) = reward.score([Item(prompt, ("a",))])
    return score


def failure(reward: Reward, prompt: str = "p") -> RewardFailure:
    found = outcome(reward, prompt)
    assert isinstance(found, RewardFailure), found
    return found


GOOD_AFTERWARDS = "if prompt == 'good': return [1.0]\n"

SECRETS = ("OPENAI_API_KEY", "WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD", "RAY_AUTH_TOKEN")


def test_planted_keys_are_not_in_the_environment(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "planted-secret")
    reward = build(
        "import pathlib\n"
        "own = os.environ.values()\n"
        "keeper = pathlib.Path(f'/proc/{os.getppid()}/environ').read_text()\n"
        "return [float('planted-secret' in own or 'planted-secret' in keeper)]"
    )
    assert outcome(reward) == 0.0


def test_a_name_listed_in_the_config_is_passed_on(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_PASSWORD", "planted-secret")
    body = "return [float(os.environ.get('MY_PASSWORD') == 'planted-secret')]"
    assert outcome(build(body, environment=("MY_PASSWORD",))) == 1.0


REACHES_LOOPBACK = "import socket\nsocket.create_connection(('127.0.0.1', {port}), 5).close()\nreturn [1.0]"


@pytest.fixture
def port() -> Iterator[int]:
    """Of a server on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.skipif(not can_leave_network(), reason="this kernel makes no network namespaces for this user")
def test_a_socket_to_loopback_is_refused_unless_the_config_opens_the_network(build: Build, port: int) -> None:
    found = failure(build(REACHES_LOOPBACK.format(port=port)))
    assert (found.kind, "(network is false)" in found.message) == ("network", True)
    assert outcome(build(REACHES_LOOPBACK.format(port=port), network=True)) == 1.0


@pytest.mark.skipif(not can_leave_network(), reason="this kernel makes no network namespaces for this user")
def test_a_host_that_a_library_looks_up_names_the_key_too(build: Build) -> None:
    body = "import urllib.request\nurllib.request.urlopen('http://example.org/', timeout=5)"
    found = failure(build(body))
    assert (found.kind, "(network is false)" in found.message) == ("network", True)


@pytest.mark.parametrize("allocation", ["bytearray(8 * 2**30)", "b'x' * (8 * 2**30)"])
def test_eight_gigabytes_are_refused_by_the_default_limit(build: Build, allocation: str) -> None:
    reward = build(GOOD_AFTERWARDS + f"held = {allocation}\nreturn [float(len(held))]")
    found = failure(reward)
    assert (found.kind, "max_memory_gib is 4" in found.message) == ("memory", True)
    assert outcome(reward, "good") == 1.0


def test_memory_of_all_processes_together_is_limited(build: Build) -> None:
    body = (
        "for _ in range(4):\n    if os.fork() == 0:\n"
        "        held = os.urandom(1) * (150 * 2**20)\n        time.sleep(60)\n"
        "time.sleep(60)\nreturn [1.0]"
    )
    reward = build(GOOD_AFTERWARDS + body, max_memory_gib=0.5)
    found = failure(reward)
    assert (found.kind, "max_memory_gib is 0.5" in found.message) == ("memory", True)
    assert outcome(reward, "good") == 1.0


def test_ten_thousand_forks_are_ended_and_leave_nothing(build: Build, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    body = (
        f"with open({str(pids)!r}, 'a') as file:\n"
        "    for _ in range(10_000):\n"
        "        pid = os.fork()\n"
        "        if pid == 0:\n            os.setsid()\n            time.sleep(60)\n            os._exit(0)\n"
        "        file.write(f'{pid}\\n')\n        file.flush()\n"
        "return [1.0]"
    )
    reward = build(GOOD_AFTERWARDS + body)
    found = failure(reward)
    assert (found.kind, "max_processes is 64" in found.message) == ("processes", True)
    started = [int(line) for line in pids.read_text().split()]
    assert 64 < len(started) < 10_000
    assert all(is_gone(pid) for pid in started)
    assert outcome(reward, "good") == 1.0


@pytest.mark.parametrize("ending", ["time.sleep(60)", "return [1.0]", "os._exit(3)", "os.kill(os.getppid(), 9)"])
def test_a_child_in_a_session_of_its_own_ends_too(build: Build, tmp_path: Path, ending: str) -> None:
    body = (
        "import subprocess\n"
        "child = subprocess.Popen(['sh', '-c', 'sleep 90 & echo $!; wait'], start_new_session=True, stdout=-1)\n"
        f"open({str(tmp_path / 'pids')!r}, 'w').write(f'{{child.pid}} {{child.stdout.readline().decode()}}')\n{ending}"
    )
    reward = build(body, deadline_s=3)
    outcome(reward)
    reward.close()
    started = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(started) == 2
    wait_until(lambda: all(map(is_gone, started)), "end of the children", others=started)


FIND_CHANNEL = (
    "import socket, stat, struct\n"
    "(number,) = [n for n in range(3, 10_000) if os.path.exists(f'/proc/self/fd/{n}')"
    " and stat.S_ISSOCK(os.fstat(n).st_mode)]\n"
    "channel = socket.socket(fileno=number)\n"
)


def test_a_reply_that_says_it_is_huge_is_not_read(build: Build) -> None:
    body = FIND_CHANNEL + "channel.sendall(struct.pack('!Q', 2**30) + b'0' * 2**20)\ntime.sleep(60)"
    reward = build(GOOD_AFTERWARDS + body)
    found = failure(reward)
    assert (found.kind, "1,073,741,824 bytes, more than 16,777,216" in found.message) == ("reply", True)
    assert outcome(reward, "good") == 1.0


def test_a_gigabyte_of_scores_costs_one_failure_and_no_memory(build: Build) -> None:
    reward = build(GOOD_AFTERWARDS + "raise ValueError('x' * 2**30)")
    found = failure(reward)
    assert found.kind == "exception"
    assert len(found.message) <= 2100
    assert outcome(reward, "good") == 1.0


def test_a_pickle_instead_of_a_reply_is_not_run(build: Build, tmp_path: Path) -> None:
    body = (
        "import pickle\nclass Attack:\n"
        f"    def __reduce__(self): return os.system, ('touch {tmp_path}/pwned',)\n"
        + FIND_CHANNEL
        + "data = pickle.dumps(Attack())\nchannel.sendall(struct.pack('!Q', len(data)) + data)\ntime.sleep(60)"
    )
    reward = build(GOOD_AFTERWARDS + body)
    found = failure(reward)
    assert (found.kind, "is no JSON" in found.message) == ("reply", True)
    assert not (tmp_path / "pwned").exists()
    assert outcome(reward, "good") == 1.0


@pytest.mark.parametrize(
    "reply",
    [
        "[]",
        "3",
        '{"number": 1, "scores": "aa"}',
        '{"number": 1, "scores": [1, 2]}',
        '{"number": 1, "scores": [true]}',
        '{"number": 1, "scores": [NaN]}',
        '{"number": 1, "scores": [1e999]}',
        '{"number": 1, "scores": [{"kind": "none", "message": ""}]}',
        '{"number": 2, "scores": [1]}',
        "[" * 100_000,
    ],
)
def test_a_reply_of_another_form_is_a_failure(build: Build, reply: str) -> None:
    body = (
        FIND_CHANNEL
        + f"data = {reply!r}.encode()\nchannel.sendall(struct.pack('!Q', len(data)) + data)\ntime.sleep(60)"
    )
    assert failure(build(body)).kind == "reply"


def test_a_second_reply_does_not_answer_the_next_item(build: Build) -> None:
    body = FIND_CHANNEL + (
        'data = b\'{"number": 1, "scores": [7]}\'\nif prompt == "first":\n'
        "    channel.sendall(2 * (struct.pack('!Q', len(data)) + data))\nchannel.detach()\nreturn [1.0]"
    )
    reward = build(body)
    assert outcome(reward, "first") == 7.0
    assert failure(reward, "second").kind == "reply"
    assert outcome(reward, "third") == 1.0


def test_a_file_larger_than_the_limit_is_not_written(build: Build, tmp_path: Path) -> None:
    target = tmp_path / "large"
    body = f"with open({str(target)!r}, 'wb') as file:\n    for _ in range(20): file.write(bytes(2**20))\nreturn [1.0]"
    found = failure(build(body, max_file_gib=10 / 1024))
    assert (found.kind, "max_file_gib is 0.00976" in found.message) == ("file_size", True)
    assert target.stat().st_size <= 10 * 2**20


def test_cpu_seconds_of_an_item_are_limited_and_of_many_items_are_not(build: Build) -> None:
    body = (
        "began = time.process_time()\n"
        "while time.process_time() - began < (9 if prompt == 'long' else 0.7): pass\nreturn [1.0]"
    )
    reward = build(body, max_cpu_s=1)
    assert [outcome(reward, "short") for _ in range(4)] == [1.0] * 4
    found = failure(reward, "long")
    assert (found.kind, "max_cpu_s is 1" in found.message) == ("cpu", True)


def test_a_limit_broken_while_the_module_loads_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("held = bytearray(8 * 2**30)\ndef reward(completions, **_): return [0.0]")
    with pytest.raises(ValueError, match=r"MemoryError.*max_memory_gib is 4"):
        build_reward(FunctionConfig(path=f"{tmp_path}/mine.py:reward"))


def test_the_keeper_stopped_by_its_own_child_is_ended_all_the_same(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raylign.rewards.sandbox.process.END_DEADLINE_S", 0.5)
    body = (
        f"open({str(tmp_path / 'pids')!r}, 'w').write(f'{{os.getpid()}} {{os.getppid()}}')\n"
        "os.kill(os.getppid(), 19)\ntime.sleep(60)"
    )
    reward = build(body, deadline_s=1)
    assert failure(reward).kind == "timeout"
    started_pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    wait_until(lambda: all(map(is_gone, started_pids)), "end of reward and keeper", others=started_pids)


def test_the_parent_is_not_left_with_open_sockets(build: Build) -> None:
    before = len(os.listdir("/proc/self/fd"))
    reward = build("os._exit(1)")
    for _ in range(3):
        failure(reward)
    reward.close()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_processes_are_found_without_the_kernels_lists_too(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    with_lists = keeper.descendants(process.pid)
    monkeypatch.setattr(keeper, "LISTS_CHILDREN", False)
    assert len(with_lists) == 1
    assert keeper.descendants(process.pid) == with_lists
    process.communicate(b"\n", timeout=10)
