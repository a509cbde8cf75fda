"""What `raylign plan` takes: a training run, and with `--simulate` the measured rates to predict it from.

Given recipes and flags; gives a `PlanConfig`. The section `simulation` is best kept in a YAML file of its own, given
as a second `--config`: other commands do not know it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from raylign.jobs.config.sections import Section
from raylign.jobs.config.train import TrainConfig


class LengthsConfig(Section):
    """Lengths of completions, lognormal, cut at `sampling.max_tokens`."""

    median_tokens: float | None = Field(None, ge=1)
    """Median length; empty: the recorded lengths of `from_run`."""
    p99_over_median: float = Field(10.0, ge=1)
    """How heavy the tail is: the 99 % quantile ÷ the median, before the cut."""


class FailuresConfig(Section):
    """How often roles fail, and how long they are away."""

    engine_mean_s: float | None = Field(None, gt=0)
    """Mean seconds between two failures of one engine; empty: never."""
    engine_restart_s: float = Field(60.0, ge=0)
    """Until an engine that failed serves again."""
    learner_mean_s: float | None = Field(None, gt=0)
    """Mean seconds between two failures of the learner, all ranks together; empty: never."""
    learner_restart_s: float = Field(120.0, ge=0)
    """Until a learner that failed trains again, from its last checkpoint (`checkpoints.every_steps`)."""
    restarts: Literal["role", "job"] = "role"
    """What starts again after a failure: the role that failed, or the whole job."""


class SimulationConfig(Section):
    """Measured rates, for `plan --simulate`. Numbers of engines, ranks, prompts and steps are those of the run."""

    from_run: Path | None = None
    """Folder of a recorded run: its rates, times and lengths stand in for the keys below that are not given."""
    num_steps: int = Field(30, ge=3)
    """Steps that are simulated; the wall time of the whole run is extended from them."""
    max_staleness: int | None = Field(None, ge=0)
    """η; empty: that of the run (`async.max_staleness`)."""
    decode_step_s: dict[int, float] = Field({})
    """Seconds of one decode step of one engine by running sequences, as JSON: '{"1": 0.004, "64": 0.009}'."""
    lengths: LengthsConfig = LengthsConfig()
    learner_tokens_per_s: float | None = Field(None, gt=0)
    """Completion tokens that one learner rank trains in a second."""
    learner_fixed_s: float = Field(0.0, ge=0)
    """Seconds of a training step that do not depend on its tokens."""
    export_s: float | None = Field(None, ge=0)
    """Seconds in which the learner hands out its weights and does not train; empty: 0, or as recorded."""
    sync_s: float | None = Field(None, ge=0)
    """Seconds in which engines stand still for an update; empty: 0, or as recorded."""
    recompute_tokens_per_s: float | None = Field(None, gt=0)
    """Rate at which an engine computes keys and values of running sequences again after an update; empty: it keeps
    them, or `sync_s` has it in."""
    takes_turns: bool = False
    """Engines and learner are the same devices and work in turns."""
    switch_s: float = Field(0.0, ge=0)
    """Seconds of a step that takes turns for sleep, reload, offload and wake together."""
    failures: FailuresConfig = FailuresConfig()


class PlanConfig(TrainConfig):
    """One training run, looked at before it starts."""

    simulate: bool = False
    """Predict times, idle shares and staleness from measured rates, instead of checking this machine."""
    simulation: SimulationConfig = SimulationConfig()
    cluster_file: Path | None = None
    """A cluster.yaml, or a RayCluster of KubeRay: print who will lie on which of its GPUs, with how much memory,
    instead of checking this machine. `plan --cluster FILE` says the same."""
    gpu_gib: float | None = Field(None, gt=0)
    """Memory of each of its GPUs, where their name in that file does not tell."""

    @model_validator(mode="after")
    def _check_simulation(self) -> PlanConfig:
        if not self.simulate and self.simulation != SimulationConfig():
            raise ValueError("the section simulation is given, and nothing reads it: add --simulate")
        if self.gpu_gib is not None and self.cluster_file is None:
            raise ValueError(f"gpu_gib is {self.gpu_gib:g}, and nothing reads it: add --cluster FILE")
        return self
