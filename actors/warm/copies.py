"""Copies of the warm process: how one is asked for, and how it becomes what a plain start would have made.

Given a pickle to run, `fork_from` gives a copy of the process that has imported torch, vLLM, DeepSpeed and Ray already
(`actors/warm/process.py`); it first enters the surroundings of whoever asked: environment, streams, folder, cores.

What libraries read from the environment when they are imported is that of the warm process: `enter` sets right what can
be set later, and `may_be_copied` says where a plain start is needed. All speak the protocol of the standard library's
fork server. In a copy, "spawn" of `multiprocessing` means another copy: so are vLLM's engine core and workers.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import resource
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing import context, reduction, spawn
from multiprocessing.popen_fork import Popen as ForkPopen
from multiprocessing.popen_spawn_posix import Popen as SpawnPopen
from pathlib import Path
from typing import Any

ADDRESS_VARIABLE = "RAYLIGN_WARM_PROCESS"
"""Where the fork server listens; processes of a run inherit it."""
FIRST_JOB = "01000000"
"""Ray reads the job's number when it is loaded; in a cluster of our own there is one job."""
OOM_SCORE = Path("/proc/self/oom_score_adj")


def may_be_copied(environment: Mapping[str, str]) -> bool:
    """Whether a process with these variables is the same when it is copied: OpenMP reads how its threads wait only when
    it is loaded, which concerns whoever has several."""
    waits = environment.get("OMP_WAIT_POLICY", "").upper()
    waits_alike = waits == "PASSIVE" or environment.get("OMP_NUM_THREADS", "1") == "1"
    return waits_alike and environment.get("RAY_JOB_ID", FIRST_JOB) == FIRST_JOB


def fork_from(address: str, descriptors: Sequence[int], message: bytes) -> tuple[int, int, int]:
    """A copy of the process behind `address` that loads the two pickles of `message`, as `multiprocessing` has them.

    Gives its process id; a descriptor from which the exit code can be read when it ends; and one that the copy takes
    for its parent's life.
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address)
        status, child_status = os.pipe()
        child_message, to_child = os.pipe()
        nothing = os.open(os.devnull, os.O_RDWR)  # in place of descriptors that keep the server alive
        try:
            reduction.sendfds(client, [child_message, child_status, nothing, nothing, *descriptors])
        finally:
            for descriptor in (child_message, child_status, nothing):
                os.close(descriptor)
    life = os.dup(to_child)
    with open(to_child, "wb") as file:
        file.write(message)
    number = os.read(status, 8)
    if len(number) < 8:
        raise ConnectionError("the warm process has ended")
    return int.from_bytes(number, sys.byteorder, signed=True), status, life


class Surroundings:
    """What a process has from its parent, pickled; loading it in a copy enters them and gives `then`."""

    def __init__(self, environment: Mapping[str, str], standard_streams: Sequence[int], then: Any) -> None:
        """`standard_streams`: places of the three among the descriptors that are sent along."""
        self._arguments = (
            dict(environment),
            tuple(standard_streams),
            os.getcwd(),
            os.sched_getaffinity(0),
            os.getpriority(os.PRIO_PROCESS, 0),
            signal.pthread_sigmask(signal.SIG_BLOCK, ()),
            resource.getrlimit(resource.RLIMIT_NOFILE),
            OOM_SCORE.read_text(),
            then,
        )

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return enter, self._arguments


def enter(
    environment: dict[str, str],
    standard_streams: Sequence[int],
    folder: str,
    cores: set[int],
    niceness: int,
    blocked_signals: set[int],
    open_files: tuple[int, int],
    oom_score: str,
    then: Any,
) -> Any:
    """Called in a copy, before anything else: become a process that the asking one might have started."""
    from multiprocessing import forkserver, resource_tracker

    inherited = forkserver.get_inherited_fds() or []
    for target, place in enumerate(standard_streams):
        os.dup2(inherited[place], target)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    os.setpriority(os.PRIO_PROCESS, 0, niceness)
    resource.setrlimit(resource.RLIMIT_NOFILE, open_files)
    with suppress(PermissionError):
        OOM_SCORE.write_text(oom_score)  # Ray has the system end workers first
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked_signals)
    resource_tracker._resource_tracker._fd = None  # type: ignore[attr-defined]  # its own, when it needs one
    _set_cores_and_threads(environment, cores)
    _draw_anew()
    if told := environment.get("PYTHONWARNINGS"):
        warnings._processoptions(told.split(","))  # type: ignore[attr-defined]
    if "huggingface_hub.constants" in sys.modules:
        is_offline = environment.get("HF_HUB_OFFLINE") == "1"
        setattr(sys.modules["huggingface_hub.constants"], "HF_HUB_OFFLINE", is_offline)  # noqa: B010
    if "ray._raylet" in sys.modules:  # its settings are variables, and it has read them
        sys.modules["ray._raylet"].Config.initialize("")
        sys.modules["ray._raylet"].AuthenticationTokenLoader.instance().reset_cache()
    context._concrete_contexts["spawn"] = WarmContext()  # type: ignore[attr-defined]
    return then


def _set_cores_and_threads(environment: Mapping[str, str], cores: set[int]) -> None:
    """What OpenMP would have read from the environment."""
    place = re.fullmatch(r"\{(\d+(,\d+)*)\}", environment.get("OMP_PLACES", ""))  # one for all threads, as vLLM has it
    if place and environment.get("OMP_PROC_BIND") == "true":
        cores = {int(core) for core in place[1].split(",")} & cores or cores
    os.sched_setaffinity(0, cores)
    num_threads = int(environment.get("OMP_NUM_THREADS", "").partition(",")[0] or len(cores))
    if "torch" in sys.modules and sys.modules["torch"].get_num_threads() != num_threads:
        sys.modules["torch"].set_num_threads(num_threads)


def _draw_anew() -> None:
    """Copies must not draw the same numbers (Python's own generator sees to it by itself)."""
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()


class CopyPopen(ForkPopen):
    """A child of `multiprocessing` as a copy of the warm process."""

    method = "spawn"

    class DupFd:
        """A descriptor that is sent along."""

        def __init__(self, place: int) -> None:
            self._place = place

        def detach(self) -> int:
            from multiprocessing import forkserver

            return forkserver.get_inherited_fds()[self._place]  # type: ignore[index]

    def __init__(self, process: Any) -> None:
        self._descriptors: list[int] = []
        super().__init__(process)

    def duplicate_for_child(self, descriptor: int) -> int:
        self._descriptors.append(descriptor)
        return len(self._descriptors) - 1

    def _launch(self, process: Any) -> None:
        from multiprocessing import util

        preparation = spawn.get_preparation_data(process._name)
        streams = [self.duplicate_for_child(descriptor) for descriptor in range(3)]
        message = io.BytesIO()
        context.set_spawning_popen(self)  # type: ignore[arg-type]
        try:
            reduction.dump(Surroundings(os.environ, streams, preparation), message)
            reduction.dump(process, message)
        finally:
            context.set_spawning_popen(None)
        address = os.environ[ADDRESS_VARIABLE]
        self.pid, self.sentinel, life = fork_from(address, self._descriptors, message.getvalue())
        self.finalizer = util.Finalize(self, _close, (life, self.sentinel))

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """The server's word on how the copy ended; 255 if the server is gone."""
        from multiprocessing.connection import wait

        if self.returncode is None:
            if not wait([self.sentinel], 0 if flag == os.WNOHANG else None):
                return None
            code = os.read(self.sentinel, 8)
            self.returncode = int.from_bytes(code, sys.byteorder, signed=True) if len(code) == 8 else 255
        return self.returncode


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


class WarmChild(context.SpawnProcess):
    """A process of `WarmContext`."""

    @staticmethod
    def _Popen(process: Any) -> Any:
        if ADDRESS_VARIABLE in os.environ and may_be_copied(os.environ):
            try:
                return CopyPopen(process)
            except OSError:  # the warm process has ended
                pass
        return SpawnPopen(process)


class WarmContext(context.SpawnContext):
    """What `multiprocessing` calls "spawn", in copies of the warm process: vLLM starts its processes so."""

    Process = WarmChild  # type: ignore[assignment]


class Script:
    """What a copy runs, in the place of a process of `multiprocessing`: a Python file, as the main program."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = list(words)

    def _bootstrap(self, parent_sentinel: int) -> int:
        import atexit
        import runpy

        os.close(parent_sentinel)
        sys.argv = self._words
        sys.path[0] = str(Path(self._words[0]).parent)
        code = 0
        try:
            runpy.run_path(self._words[0], run_name="__main__")
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        finally:
            atexit._run_exitfuncs()
        return code


def fork_script(words: Sequence[str], environment: Mapping[str, str]) -> tuple[int, int, int]:
    """`python words` as a copy of the warm process, with this process's standard streams; see `fork_from`."""
    message = io.BytesIO()
    message.write(pickle.dumps(Surroundings(environment, (0, 1, 2), {})))
    message.write(pickle.dumps(Script(words)))
    return fork_from(environment[ADDRESS_VARIABLE], (0, 1, 2), message.getvalue())
