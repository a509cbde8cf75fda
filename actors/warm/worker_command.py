"""What a private cluster's raylet runs to start a worker, in the place of Ray's own set-up script.

Given that script's words; asks the warm process for a copy that becomes the worker, and ends. Where there is no warm
process, or the worker needs what a copy cannot have, it goes on as Ray's script. `workers_are_copies` tells Ray.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from raylign.actors.warm.copies import ADDRESS_VARIABLE, fork_script, may_be_copied

RAYS_OWN = "RAYLIGN_RAYS_WORKER_COMMAND"
"""Path of Ray's script."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--serialized-runtime-env-context", default="{}")
    parser.add_argument("--language")
    own, words = parser.parse_known_args()
    context = json.loads(own.serialized_runtime_env_context or "{}")
    environment = {**os.environ, **context.pop("env_vars", {})}
    context.pop("java_jars", None)
    is_plain = context.pop("py_executable", sys.executable) == sys.executable and not any(context.values())
    is_python = Path(words[0]).name == "default_worker.py"
    if ADDRESS_VARIABLE in environment and is_plain and is_python and may_be_copied(environment):
        try:
            fork_script(words, environment)
            return
        except OSError:
            pass  # the warm process has ended
    script = os.environ[RAYS_OWN]
    os.execv(sys.executable, [sys.executable, script, *sys.argv[1:]])


@contextmanager
def workers_are_copies() -> Iterator[None]:
    """A raylet that is started meanwhile, while there is a warm process, starts its workers by this file."""
    from ray._private import parameter, ray_constants

    if ADDRESS_VARIABLE not in os.environ:
        yield
        return
    module: Any = parameter
    of_ray = module.RayParams
    root = Path(ray_constants.__file__).parent
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")  # they would belong to no job, and are made at once
    os.environ[RAYS_OWN] = str(root / "workers" / ray_constants.SETUP_WORKER_FILENAME)
    # the monitor would look after an autoscaler, of which there is none
    module.RayParams = partial(of_ray, setup_worker_path=__file__, no_monitor=True)
    try:
        yield
    finally:
        module.RayParams = of_ray


if __name__ == "__main__":
    main()
