"""Learner ranks that export their weights; a script, since DeepSpeed ranks are processes of their own.

Given a model folder, an output folder, a ZeRO stage and whether to train first, and RANK/WORLD_SIZE in the environment;
rank 0 writes buckets.json there and keeps the buckets until a file `done` appears, or its owner ends:
    python weight_ranks.py MODEL OUT 3 train
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from raylign.actors.learner.rank import LearnerRank
from raylign.actors.learner.spec import LearnerSpec
from raylign.learners.algorithms.sft import SftConfig
from raylign.learners.engines.config import LearnerConfig
from raylign.learners.engines.distributed import rank
from raylign.learners.examples.example import Example
from raylign.learners.model import export


def examples() -> list[Example]:
    """Four rows of tokens."""
    rng = np.random.default_rng(0)
    return [
        Example(
            rng.integers(0, 97, 5).astype(np.int32),
            rng.integers(0, 97, 9).astype(np.int32),
            loss_mask=np.ones(9, np.float32),
            advantages=np.ones(9, np.float32),
        )
        for _ in range(4)
    ]


def main(model: str, out: Path, zero_stage: int, train: bool) -> None:
    """Build, train, export, wait."""
    export.GATHER_BYTES = 100_000  # several gathers, as a large model has
    config = LearnerConfig(zero_stage=zero_stage, threads_per_rank=1, learning_rate=0.1)  # type: ignore[arg-type]
    spec = LearnerSpec(config, model, SftConfig(), 1.0, 4, 0, str(out), weights_bucket_bytes=150_000)
    learner = LearnerRank(spec)
    if train:
        learner.update(examples())
    buckets = learner.export_weights(1)
    if train:
        learner.save(str(out / "model"))
        learner.update(examples())  # what was exported stays as it was
    if rank() == 0:
        (out / "buckets.draft").write_text(json.dumps([asdict(bucket) for bucket in buckets]))
        (out / "buckets.draft").rename(out / "buckets.json")
    owner = os.getppid()
    while not (out / "done").exists() and os.getppid() == owner:
        time.sleep(0.05)
    learner.release_weights()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "train")
