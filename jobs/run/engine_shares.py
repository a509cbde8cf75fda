"""What one engine of several gets for itself: cores, and noise.

Given an engine's number and how many there are; gives the cores that it binds to, and the seed of its generator.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from raylign.actors.cores import share_of


def cores_of_engine(index: int, num_engines: int, cores: Sequence[int] | None) -> str:
    """The cores that engine `index` binds its threads to on a CPU machine: a share of its own of `cores`, or of all
    where roles take turns (None); then one engine chooses itself."""
    if cores is None:
        if num_engines == 1:
            return "auto"
        cores = sorted(os.sched_getaffinity(0))
    return ",".join(map(str, share_of(cores, index, num_engines)))


def engine_seed(run_seed: int, index: int, weight_version: int) -> int:
    """Seed of an engine's own generator: engines draw different noise, and another one after a resume."""
    import numpy as np

    return int(np.random.SeedSequence([run_seed, index, weight_version]).generate_state(1)[0] >> 1)
