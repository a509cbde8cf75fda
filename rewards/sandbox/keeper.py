"""Keeps the process of a reward within its limits and ends all that it started; started by process.py.

Given a channel for the reward, one for its own last word, its parent and the limits, forks the reward's process
(child.py). Whatever the reward's code starts stays below this process, sessions of their own included
(PR_SET_CHILD_SUBREAPER), and ends with it. The last word is JSON: what the reward's process did at its
end (`ended with exit code 3`).

    loop: waits for SIGTERM (the parent wants the end, or is dead), SIGCHLD (the reward ended), or the next look
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from raylign.rewards.sandbox.limits import GIB, Limits

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_GET_CHILD_SUBREAPER = 37
LOOK_EVERY_S = 0.1
END_DEADLINE_S = 5.0
LISTS_CHILDREN = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").exists()
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def prctl(option: int, value: int) -> bool:
    """Whether the kernel did it."""
    return sys.platform == "linux" and ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0


def can_adopt_orphans() -> bool:
    """Whether the kernel knows PR_SET_CHILD_SUBREAPER; changes nothing here."""
    found = ctypes.c_int()
    return sys.platform == "linux" and ctypes.CDLL(None).prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(found)) == 0


def end_with_parent(parent_pid: int, by: signal.Signals) -> None:
    """Ask the kernel for a signal when the parent ends: code that hangs never sees its socket close."""
    prctl(PR_SET_PDEATHSIG, by)
    if os.getppid() != parent_pid:  # it died before we asked
        os._exit(1)


def descendants(root: int) -> list[int]:
    """All processes below `root`, the nearest first."""
    children = _children if LISTS_CHILDREN else _children_by_parent()
    found = list(children(root))
    for pid in found:
        found += children(pid)
    return found


def _children(pid: int) -> Iterator[int]:
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:  # it ended
        return
    for thread in threads:
        with contextlib.suppress(OSError):
            yield from map(int, Path(f"/proc/{pid}/task/{thread}/children").read_bytes().split())


def _children_by_parent() -> Callable[[int], list[int]]:
    """Where the kernel lists no children: each process says who its parent is."""
    found: dict[int, list[int]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError):
            parent = int(file.read_text(errors="replace").rpartition(")")[2].split()[1])
            found.setdefault(parent, []).append(int(file.parent.name))
    return lambda pid: found.get(pid, [])


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * PAGE_BYTES
    except (OSError, IndexError):
        return 0


def _proportional_bytes(pid: int) -> int:
    """Shared pages count once among those that share them: what forks have together is no use of memory."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return _resident_bytes(pid)


def broken_limit(pids: list[int], limits: Limits) -> dict[str, str] | None:
    """The limit that these processes are beyond together, as the last word."""
    if limits.max_processes is not None and len(pids) > limits.max_processes:
        return _word("processes", f"ran {len(pids)} processes", limits)
    if limits.max_memory_gib is not None:
        allowed = limits.max_memory_gib * GIB
        if sum(map(_resident_bytes, pids)) > allowed and (used := sum(map(_proportional_bytes, pids))) > allowed:
            return _word("memory", f"used {used / GIB:.1f} GiB", limits)
    return None


def _word(kind: str, message: str, limits: Limits) -> dict[str, str]:
    return {"kind": kind, "message": message + limits.describe(kind)}


def how_it_ended(status: int, limits: Limits) -> dict[str, str]:
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGXCPU:
        return _word("cpu", "took too many CPU seconds for one item", limits)
    if code == -signal.SIGXFSZ:
        return _word("file_size", "wrote too large a file", limits)
    if code < 0:
        return _word("crash", f"was ended by signal {-code} ({signal.strsignal(-code)})", limits)
    return _word("crash", f"ended with exit code {code}", limits)


def end_all() -> None:
    """End all that is below us. Stopped first, so that nothing starts more while the rest is ended."""
    ends = time.monotonic() + END_DEADLINE_S
    while (pids := descendants(os.getpid())) and time.monotonic() < ends:
        for by in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, by)
        _reap()
        time.sleep(0.005)


def _reap() -> dict[int, int]:
    """Wait statuses by pid of what has ended; orphans of the reward's processes are ours to reap."""
    ended: dict[int, int] = {}
    with contextlib.suppress(ChildProcessError):
        while (reaped := os.waitpid(-1, os.WNOHANG))[0] != 0:
            ended[reaped[0]] = reaped[1]
    return ended


def keep(reward_pid: int, limits: Limits) -> dict[str, str]:
    """Until the reward's process ends, breaks a limit, or is to end; gives the last word."""
    while True:
        signal_info = signal.sigtimedwait({signal.SIGTERM, signal.SIGCHLD}, LOOK_EVERY_S)
        ended = _reap()
        if reward_pid in ended:
            return how_it_ended(ended[reward_pid], limits)
        if signal_info is not None and signal_info.si_signo == signal.SIGTERM:
            return _word("crash", "was to end", limits)
        if (word := broken_limit(descendants(os.getpid()), limits)) is not None:
            return word


def main() -> None:
    channel_number, word_number, parent_pid = map(int, sys.argv[1:4])
    limits = Limits.from_json(sys.argv[4])
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD})
    end_with_parent(parent_pid, signal.SIGTERM)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    last_word = socket.socket(fileno=word_number)
    keeper_pid = os.getpid()
    reward_pid = os.fork()
    if reward_pid == 0:
        last_word.close()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGCHLD})
        os.setsid()  # a signal to its own group does not reach its keeper
        end_with_parent(keeper_pid, signal.SIGKILL)
        limits.hold_here()
        from raylign.rewards.sandbox import child

        child.serve(socket.socket(fileno=channel_number), limits)
        return
    os.close(channel_number)
    word = keep(reward_pid, limits)
    end_all()
    with contextlib.suppress(OSError):
        last_word.sendall(json.dumps(word).encode())


if __name__ == "__main__":
    main()
