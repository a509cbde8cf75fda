"""The surroundings of an engine's processes: environment variables, and the promise that they end with their owner.

Given nothing from vLLM (it must not be imported before the environment is set); gives `set_environment` for the process
that owns an engine and `end_with_owner` for the processes that it starts.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import select
import signal
import threading
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path

from raylign.rollout.owned_folders import OwnedFolder

OWNER_VARIABLE = "RAYLIGN_ENGINE_OWNER"
SOCKETS_VARIABLE = "VLLM_RPC_BASE_PATH"
SOCKETS_PREFIX = "raylign-engine-"
QUIET_ON_CPU = {
    "TORCH_LOGS": "-torch._library.triton",  # there is no Triton without a GPU
    "TORCH_CPP_LOG_LEVEL": "ERROR",  # vLLM tells the NUMA node that it binds memory to
}
"""Said at every start on CPU, and nothing is wrong; errors stay."""
LOOKED_AT_BY_VLLM = "vllm.triton_utils.dispatcher"
"""Reads every attribute of every module, deprecated ones of torch too, which then warn."""


def set_environment(model_path: str, cpu_cores: str | None) -> None:
    """Set what vLLM reads from the environment. `cpu_cores`: None on GPU."""
    os.environ[OWNER_VARIABLE] = str(os.getpid())
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ["DO_NOT_TRACK"] = "1"
    if Path(os.environ.get(SOCKETS_VARIABLE, SOCKETS_PREFIX)).name.startswith(SOCKETS_PREFIX):
        os.environ[SOCKETS_VARIABLE] = str(_folder_of_sockets().path)
    if Path(model_path).is_dir():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.filterwarnings("ignore", category=FutureWarning, module=re.escape(LOOKED_AT_BY_VLLM) + r"\Z")
    told, ours = os.environ.get("PYTHONWARNINGS", ""), f"ignore::FutureWarning:{LOOKED_AT_BY_VLLM}"
    if ours not in told:
        os.environ["PYTHONWARNINGS"] = f"{told},{ours}" if told else ours  # for the processes that vLLM starts
    if cpu_cores is not None:
        for key, value in QUIET_ON_CPU.items():
            os.environ.setdefault(key, value)
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = usable_cores() if cpu_cores == "auto" else cpu_cores
        # Compiling takes 15 s at the first request and gains nothing at the sizes that one trains on CPU.
        os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")


@cache
def _folder_of_sockets() -> OwnedFolder:
    """One for all engines of this process; vLLM would leave its sockets in the temporary folder."""
    return OwnedFolder(SOCKETS_PREFIX, "/tmp")  # a short path, as sockets need


def usable_cores() -> str:
    """The cores that this process may use but one, as vLLM wants them: `1,2,3`.

    One is left to the scheduler and to this process, which work beside the model. Threads that spin for a busy core
    cost more than they give: on two shared cores two threads made 2,800 tokens/s, one made 11,000.
    """
    cores = sorted(os.sched_getaffinity(0))
    return ",".join(map(str, cores[1:] or cores))


def end_with_owner() -> None:
    """End this process, and the engine core that started it, when the owner of the engine dies, even by SIGKILL.

    The parent-death signal of Linux would not do: it fires when the *thread* that started the child ends.
    """
    owner_pid = int(os.environ.get(OWNER_VARIABLE, "0"))
    if not owner_pid or owner_pid == os.getpid():
        return
    parent = multiprocessing.parent_process()  # the system's word is another where this is a copy of a warm process
    parent_pid = parent.pid if parent else None
    watched = _open(owner_pid)
    engine_core = _open(parent_pid) if parent_pid not in (None, owner_pid) else -1

    def wait_for_owner() -> None:
        if watched >= 0:
            select.select([watched], [], [])
        if engine_core >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(engine_core, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait_for_owner, daemon=True, name="wait-for-engine-owner").start()


def _open(pid: int | None) -> int:
    """A descriptor of a process; -1 if it has ended."""
    try:
        return os.pidfd_open(pid) if pid else -1
    except ProcessLookupError:
        return -1
