"""How much memory one rank of ZeRO-3 takes while it loads a model and builds its engine; a script, one process a rank.

Given a model folder, an output folder and RANK/WORLD_SIZE in the environment; writes MiB of memory of the process's own
(pages of mapped files, which are the disk's, do not count) as JSON.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
import threading
from pathlib import Path


def own_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem"))) / 1024


class Watch:
    """The most that was held, looked at every few milliseconds."""

    def __init__(self) -> None:
        self.most_mib = own_mib()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.003):
            self.most_mib = max(self.most_mib, own_mib())

    def stop(self) -> float:
        self._over.set()
        self._thread.join()
        return self.most_mib


def main(model: str, out: str) -> None:
    for library in (
        "deepspeed",
        "transformers.models.auto.modeling_auto",
    ):  # before the first look: it is the library's memory
        importlib.import_module(library)
    from raylign.learners.engines.build import build_engine
    from raylign.learners.engines.config import LearnerConfig
    from raylign.learners.engines.distributed import ensure_process_group
    from raylign.learners.model.policy_model import load_policy

    config = LearnerConfig(zero_stage=3, num_ranks=int(os.environ["WORLD_SIZE"]), dtype="float32")
    ensure_process_group(600)
    before, watch = own_mib(), Watch()
    policy = load_policy(model, config, 1.0, "padded", 0)
    loaded = own_mib()
    engine = build_engine(policy, config, 10, Path(out))
    most, end = watch.stop(), own_mib()
    num_parameters = sum(math.prod(engine.full_shape(each)) for each in engine.trainable)
    found = {"loaded": loaded - before, "most": most - before, "end": end - before, "model": num_parameters * 4 / 2**20}
    (Path(out) / f"memory{os.environ['RANK']}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
