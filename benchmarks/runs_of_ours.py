"""One `raylign train` on the long-tailed workload, as a process of its own.

Given the workload, the staleness bound and a number of steps; gives the lines of metrics after the warm-up steps.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.json_rows import json_rows
from benchmarks.long_tail import Workload
from benchmarks.measurement import engine_core

NUM_SAMPLES_KEY = "rollout/completion_length_mean"


@dataclass(frozen=True)
class OurRun:
    """What a run did in its steady state."""

    lines: list[dict[str, Any]]
    seconds: float
    """Wall time of the steps in `lines`, evaluation and start aside."""

    @property
    def generated_tokens(self) -> float:
        return sum(line["rollout/tokens"] for line in self.lines)

    @property
    def trained_tokens(self) -> float:
        """Tokens that went through the learner: masked ones do too, those of groups without signal do not."""
        return sum(line["rollout/tokens"] * (1 - line["learner/skipped_share"]) for line in self.lines)

    @property
    def num_samples(self) -> float:
        return sum(line["rollout/tokens"] / line[NUM_SAMPLES_KEY] for line in self.lines)

    def idle_share(self, role: str) -> float:
        """Of `rollout` or `learner`, over the wall time."""
        return sum(line[f"idle/{role}_share"] * line["time/step_s"] for line in self.lines) / self.seconds


def train(workload: Workload, folder: Path, max_staleness: int, num_steps: int, num_warm_up: int, seed: int) -> OurRun:
    """Run it; the last words of a run that fails are in the error. The steady state is timed between the ends of steps,
    so that what runs ahead in the warm-up is paid for by what runs ahead at the end."""
    words = [sys.executable, "-m", "raylign.jobs", "train", "--config", str(workload.recipe), "--folder", str(folder)]
    words += ["--num_steps", str(num_steps + num_warm_up + max_staleness), "--seed", str(seed)]
    words += ["--async.max_staleness", str(max_staleness), "--rollout.engine.cpu_cores", str(engine_core())]
    run = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if run.returncode:
        raise RuntimeError(f"{' '.join(words[3:])} ended with {run.returncode}:\n{run.stdout[-3000:]}")
    lines = json_rows(folder / "metrics.jsonl")
    steps = [line for line in lines if "time/step_s" in line]
    # the last η steps have nobody running ahead of them any more: they are no steady state
    steps = steps[: num_warm_up + num_steps]
    return OurRun(steps[num_warm_up:], steps[-1]["seconds"] - steps[num_warm_up - 1]["seconds"])
