"""What a private cluster's raylet runs to start a worker, in the place of Ray's own set-up script.

Given that script's words; asks the warm process for a copy that becomes the worker, and ends. Where there is no warm
process, or the worker needs what a copy cannot have, it goes on as Ray's script. `settings_of_node` tells Ray.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
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


def settings_of_node() -> dict[str, Any]:
    """What Ray is to be told, as it starts a node, for its workers to be started by this file: nothing where there is
    no warm process."""
    from ray._private import ray_constants

    if ADDRESS_VARIABLE not in os.environ:
        return {}
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")  # they would belong to no job, and are made at once
    script = ray_constants.SETUP_WORKER_FILENAME
    os.environ[RAYS_OWN] = str(Path(ray_constants.__file__).parent / "workers" / script)
    return {"setup_worker_path": __file__}


if __name__ == "__main__":
    main()
