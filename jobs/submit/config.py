"""What `raylign submit` and its verbs take: a training run, or the job that a run became, and whose cluster it is.

Given recipes and flags; gives configs without asking any cluster. All that only the cluster can know (data, model,
memory) the job checks there, as `train` does.
"""

from __future__ import annotations

from pydantic import model_validator

from raylign.jobs.config.sections import Section
from raylign.jobs.config.train import TrainConfig


class SubmitConfig(TrainConfig):
    """A training run as a job of a Ray cluster. Submitted again, it goes on in the same run folder."""

    address: str | None = None
    """Of the cluster's dashboard; empty: RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265, where `ray dashboard
    cluster.yaml` leads."""
    follow: bool = False
    """Print what the job says until it ends; Ctrl-C leaves the job alone."""
    resume: bool = True
    """Go on from the last checkpoint where the run folder has one; false: refuse a folder that is in use."""

    @model_validator(mode="after")
    def _check_folder(self) -> SubmitConfig:
        if not self.folder.is_absolute():
            raise ValueError(
                f"folder is {self.folder}: on the cluster a relative path lies in a copy of the code that is deleted "
                f"after the job; give a path on a disk that all nodes share, such as /mnt/shared/{self.folder}"
            )
        return self


class JobConfig(Section):
    """One job of a Ray cluster."""

    job: str | None = None
    """Its id; `raylign submit logs ID` says the same. Empty: the newest job that `raylign submit` made."""
    address: str | None = None
    """Of the cluster's dashboard, as for `raylign submit`."""


class JobLogsConfig(JobConfig):
    """What a job said."""

    follow: bool = False
    """Go on until the job ends; Ctrl-C leaves the job alone."""


class JobStopConfig(JobConfig):
    """The end of a job: it finishes its step and saves a checkpoint first, as `train` does on Ctrl-C."""


class JobStatusConfig(JobConfig):
    """Jobs that `raylign submit` made."""

    job: str | None = None
    """Its id; empty: all of them."""


TRAIN_KEYS = frozenset(TrainConfig.model_fields)
"""Of a `SubmitConfig`, what the job itself is given."""
