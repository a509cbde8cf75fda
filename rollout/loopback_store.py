"""torch's store of a process group on one machine, without a door to the network.

Given nothing; `keep_stores_on_loopback` makes `init_process_group` of this process listen on the loopback address where
that is the address of the group: torch's own server would listen on all addresses, and asks nobody for a key. Groups
over several machines, whose address is another, stay as they are.
"""

from __future__ import annotations

import importlib
import ipaddress
import os
import socket
from typing import Any


def keep_stores_on_loopback() -> None:
    """For all groups that this process begins from now on."""
    module: Any = importlib.import_module("torch.distributed.rendezvous")  # the package has a function of that name
    of_torch = module.TCPStore
    if isinstance(of_torch, _LoopbackStore):
        return
    module.TCPStore = _LoopbackStore(of_torch)


class _LoopbackStore:
    """In the place of the class that torch makes stores of."""

    def __init__(self, of_torch: Any) -> None:
        self._of_torch = of_torch

    def __call__(self, host_name: str, port: int, **settings: Any) -> Any:
        if not (settings.get("is_master") and _is_loopback(host_name)):
            return self._of_torch(host_name=host_name, port=port, **settings)
        listener = socket.create_server((host_name, port), backlog=128)
        number = listener.detach()
        try:
            return self._of_torch(host_name=host_name, port=port, master_listen_fd=number, **settings)
        except BaseException:
            os.close(number)
            raise


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
