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
from pathlib import Path
from typing import Literal

from benchmarks.learner_memory import LIBRARIES
from benchmarks.own_memory import Watch, own_mib


def main(model: str, out: str, dtype: Literal["float32", "bfloat16"]) -> None:
    for library in LIBRARIES:
        importlib.import_module(library)  # before the first look: it is the library's memory
    from raylign.learners.engines.build import build_engine, shard_frozen
    from raylign.learners.engines.config import LearnerConfig
    from raylign.learners.engines.distributed import ensure_process_group
    from raylign.learners.model.policy_model import load_policy, load_reference

    config = LearnerConfig(zero_stage=3, num_ranks=int(os.environ["WORLD_SIZE"]), dtype=dtype)
    ensure_process_group(600)
    found = {}
    before, watch = own_mib(), Watch()
    reference = load_reference(model, config, 1.0, "padded")
    num_parameters = sum(parameter.numel() for parameter in reference.parameters())
    frozen = shard_frozen(reference, config)
    found["frozen_most"] = watch.stop() - before
    found["frozen_end"] = own_mib() - before

    before, watch = own_mib(), Watch()
    policy = load_policy(model, config, 1.0, "padded", 0)
    found["loaded"] = own_mib() - before
    engine = build_engine(policy, config, 10, Path(out))
    found["most"], found["end"] = watch.stop() - before, own_mib() - before
    assert sum(math.prod(engine.full_shape(each)) for each in engine.trainable) == num_parameters
    assert frozen.tensors is None
    found["model"] = num_parameters * {"float32": 4, "bfloat16": 2}[dtype] / 2**20
    found["masters"] = 4 * num_parameters / config.num_ranks / 2**20
    (Path(out) / f"memory{os.environ['RANK']}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])  # type: ignore[arg-type]
