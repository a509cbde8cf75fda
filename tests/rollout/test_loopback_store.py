"""Process groups on one machine listen on loopback; those with another address are left to torch."""

from __future__ import annotations

import importlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from raylign.rollout.loopback_store import keep_stores_on_loopback
from tests.patience import HANGS_S

RANK = """
import sys
import torch, torch.distributed as dist
from datetime import timedelta
from raylign.rollout.loopback_store import keep_stores_on_loopback
keep_stores_on_loopback()
rank, port = map(int, sys.argv[1:])
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
value = torch.tensor([rank + 1.0])
dist.all_reduce(value)
print(value.item(), flush=True)
sys.stdin.read()
"""


rendezvous: Any = importlib.import_module("torch.distributed.rendezvous")


@pytest.fixture
def patched() -> Iterator[None]:
    original = rendezvous.TCPStore
    keep_stores_on_loopback()
    yield
    rendezvous.TCPStore = original


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_two_ranks_meet_and_none_of_their_sockets_is_open_to_others() -> None:
    port = free_port()
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    try:
        assert [rank.stdout.readline() for rank in ranks if rank.stdout] == ["3.0\n"] * 2
        open_at = {
            each.laddr.ip
            for rank in ranks
            for each in psutil.Process(rank.pid).net_connections("inet")
            if each.status == psutil.CONN_LISTEN
        }
        assert open_at == {"127.0.0.1"}
    finally:
        for rank in ranks:
            rank.communicate(timeout=HANGS_S)
    assert [rank.returncode for rank in ranks] == [0, 0]


@pytest.mark.usefixtures("patched")
def test_a_store_at_another_address_is_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_stores_on_loopback()  # twice is once
    store = rendezvous.TCPStore
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(store, "_of_torch", lambda **settings: asked.append(settings))
    for host, is_master in (("192.0.2.7", True), ("127.0.0.1", False), ("node-3", True)):
        store(host_name=host, port=1234, is_master=is_master)
    assert asked == [
        {"host_name": "192.0.2.7", "port": 1234, "is_master": True},
        {"host_name": "127.0.0.1", "port": 1234, "is_master": False},
        {"host_name": "node-3", "port": 1234, "is_master": True},
    ]


@pytest.mark.usefixtures("patched")
def test_a_port_that_is_taken_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            # not by `init_process_group`: other tests may have made a group in this process
            next(rendezvous.rendezvous(f"tcp://127.0.0.1:{port}", rank=0, world_size=1))
