"""The warm process: it imports torch, vLLM, DeepSpeed and Ray once; the workers of a private cluster are copies of it.

Given nothing, `warm_up` begins it and `cool_down` ends it; a start by copying takes 0.1 s of CPU time instead of 10.

Safe because the process that is copied has one thread: nothing that it imports may start one (`ONE_THREAD`; the
server looks, and ends rather than fork with several) or CUDA, so there is none where there is a GPU.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
from pathlib import Path

from raylign.actors.warm.copies import ADDRESS_VARIABLE, FIRST_JOB
from raylign.rollout.engine.process import QUIET_ON_CPU
from raylign.rollout.owned_folders import OwnedFolder

OFF_VARIABLE = "RAYLIGN_COLD_START"
"""Set to 1 to start every process from nothing."""
SERVER = Path(__file__).with_name("server.py")
ONE_THREAD = {
    "OPENBLAS_NUM_THREADS": "1",  # else its threads start when numpy is imported
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "OMP_WAIT_POLICY": "PASSIVE",  # roles share cores: a thread that spins while it waits slows the others
}
DEFAULTS = {
    **QUIET_ON_CPU,
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""Read when libraries are imported; the same that engines and ranks are given where they import by themselves."""


class WarmProcess:
    """The process that imports, and is copied."""

    def __init__(self) -> None:
        self._folder = OwnedFolder("raylign-warm-", "/tmp")
        self.address = str(self._folder.path / "socket")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.address)
            listener.listen(64)
            # It ends when nobody holds the other end any more: with this process, even by kill -9.
            alive, self._alive = os.pipe()
            descriptors = (listener.fileno(), alive)
            self._process = subprocess.Popen(
                [sys.executable, str(SERVER), *map(str, descriptors)],
                pass_fds=descriptors,
                env={**DEFAULTS, **os.environ, **ONE_THREAD, **self._read_by_ray()},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            os.close(alive)
        self.pid = self._process.pid

    @staticmethod
    def _read_by_ray() -> dict[str, str]:
        """As it is loaded: the job, and which process workers must not outlive, in the place of the raylet, which does
        not run yet and does not outlive this process either."""
        return {"RAY_JOB_ID": FIRST_JOB, "RAY_RAYLET_PID": str(os.getpid())}

    def stop(self) -> None:
        """End it; its copies live on."""
        os.close(self._alive)
        self._process.kill()  # nothing in it is worth saving
        self._process.wait()
        self._folder.remove()


_warm: WarmProcess | None = None


def warm_up() -> bool:
    """Begin it, unless it runs already; it imports while the caller goes on. Whether the caller has begun it, and so
    may end it."""
    global _warm
    if _warm or os.environ.get(OFF_VARIABLE) == "1" or Path("/dev/nvidiactl").exists():
        return False
    _warm = WarmProcess()
    atexit.register(cool_down)
    os.environ[ADDRESS_VARIABLE] = _warm.address
    return True


def cool_down() -> None:
    """End it, if there is one."""
    global _warm
    if _warm:
        os.environ.pop(ADDRESS_VARIABLE, None)
        _warm.stop()
        _warm = None
