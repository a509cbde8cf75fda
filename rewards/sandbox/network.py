"""No network for a reward's process: a network namespace of its own, which has no way out and no loopback.

Given nothing; tells whether the kernel did it. It does for root, and where users may make namespaces; else the process
keeps its network, which `raylign doctor` says.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000


def leave_network() -> bool:
    """For this process and all that it starts, for good. One thread only, as the kernel demands."""
    if sys.platform != "linux":
        return False
    unshare = ctypes.CDLL(None).unshare
    user, group = os.getuid(), os.getgid()
    if unshare(CLONE_NEWNET) == 0:
        return True
    if unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        return False
    # the same user inside, or its own files would look like somebody else's
    for name, words in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with suppress(OSError):
            Path("/proc/self", name).write_text(words)
    return True


def can_leave_network() -> bool:
    """Tried in a process that ends at once."""
    pid = os.fork()
    if pid == 0:
        os._exit(0 if leave_network() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
