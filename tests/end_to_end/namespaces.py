"""Two network namespaces and the switch between them, whose link can be cut and healed, as a cable that is pulled out.

Given nothing (a user who may make user namespaces needs no rights); gives the words that run a command on either side.
While the link is cut packets vanish and nobody is told, neither side by an error nor by a closed connection.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

NEAR, FAR = "10.87.0.1", "10.87.0.2"
HOLD = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
"""Keeps a namespace until its input is closed."""


@dataclass
class Link:
    """Words before a command that is to run on a side, or on the switch."""

    near: Sequence[str]
    far: Sequence[str]
    switch: Sequence[str]

    def cut(self) -> None:
        """From now on nothing arrives."""
        _run(self.switch, "ip link set far_port nomaster")

    def heal(self) -> None:
        """From now on everything does."""
        _run(self.switch, "ip link set far_port master bridge")


def why_not() -> str | None:
    """Why there are no such namespaces here; None where there are."""
    if missing := [name for name in ("unshare", "nsenter", "ip") if shutil.which(name) is None]:
        return f"not installed: {', '.join(missing)}"
    tried = "ip link add one type veth peer name two && ip link add switch type bridge"
    done = subprocess.run(["unshare", "-rn", "sh", "-c", tried], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"the kernel refuses: {done.stderr.strip()}"


@contextmanager
def link() -> Iterator[Link]:
    """The sides have the addresses `NEAR` and `FAR`; what runs there has ended before the block does."""
    with ExitStack() as held:
        switch = held.enter_context(_namespace(["unshare", "-rn"], None))
        near, far = (held.enter_context(_namespace(["unshare", "-n"], switch)) for _ in range(2))
        _run(_enter(switch), "ip link add bridge type bridge && ip link set bridge up")
        for name, pid, address in (("near", near, NEAR), ("far", far, FAR)):
            _run(
                _enter(switch),
                f"ip link add {name}_port type veth peer name outside && ip link set outside netns {pid} && "
                f"ip link set {name}_port master bridge && ip link set {name}_port up",
            )
            other = FAR if address == NEAR else NEAR
            _run(
                _enter(pid),
                f"ip link set lo up && ip addr add {address}/24 dev outside && ip link set outside up && "
                f"ip route add default via {other}",
            )
        yield Link(_enter(near), _enter(far), _enter(switch))


@contextmanager
def _namespace(words: Sequence[str], owner: int | None) -> Iterator[int]:
    """Id of a process in it. `owner`: one whose user namespace it belongs to."""
    within = [] if owner is None else ["nsenter", f"--target={owner}", "--user", "--preserve-credentials"]
    holder = subprocess.Popen([*within, *words, *HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline(), "it is there"
        yield holder.pid
    finally:
        holder.communicate()


def _enter(pid: int) -> list[str]:
    return ["nsenter", f"--target={pid}", "--user", "--net", "--preserve-credentials"]


def _run(where: Sequence[str], line: str) -> None:
    done = subprocess.run([*where, "sh", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{line}: {done.stderr}"
