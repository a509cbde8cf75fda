"""The program of the warm process: import what is slow to import, then fork a copy for whoever asks.

Given two descriptors, a socket that listens and a pipe that ends with the owner; serves until the pipe ends.

What Ray's modules draw at random while they are imported comes from the operating system: Ray's own generator would be
seeded by it, and all copies would draw the same numbers from it, two processes with one id.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from multiprocessing import forkserver
from typing import Any

import ray
import ray.actor
from setproctitle import setproctitle

IMPORTED = (
    "ray.train.torch",
    "torch",
    "transformers",
    "vllm.v1.engine.async_llm",
    "vllm.v1.worker.cpu_worker",
    "vllm.distributed.weight_transfer.factory",
    "raylign.rollout.engine.vllm_engine",
    "raylign.rollout.experience.log",
    "raylign.actors.learner.rank",
    "raylign.actors.learner.group",
    "raylign.actors.learner.quiet_trainer",
    "raylign.actors.rollout_worker",
    "raylign.actors.experience_host",
    "raylign.actors.reward_server",
    "deepspeed",
)
"""Without `raylign.rollout.weights.transfer`: a process that imports it ends with the engine's owner."""


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the owner decides
    sys.path.pop(0)  # the folder of this file, whose modules have other names
    setproctitle("raylign::WarmProcess")  # and finds where a title is kept, which it cannot in a copy
    gc.disable()  # nothing that is imported is garbage
    _keep_ray_from_drawing()
    raylet: Any = ray._raylet
    raylet.setproctitle = setproctitle  # Ray's own would find no place for its titles after this one
    for name in IMPORTED:
        importlib.import_module(name)
    # A collection in a copy would touch every object, and so copy nearly all memory: a second for each.
    gc.freeze()
    gc.enable()
    if (threads := len(os.listdir("/proc/self/task"))) > 1:
        sys.exit(f"{threads} threads after the imports: copies would not be safe")
    forkserver.main(int(sys.argv[1]), int(sys.argv[2]), preload=[])


def _keep_ray_from_drawing() -> None:
    from ray._raylet import ActorClassID

    class FromSystem:
        def __new__(cls, *arguments: Any) -> Any:
            return ActorClassID(*arguments)

        @staticmethod
        def from_random() -> Any:
            return ActorClassID(os.urandom(ActorClassID.size()))

    actor: Any = ray.actor
    actor.ActorClassID = FromSystem


if __name__ == "__main__":
    main()
