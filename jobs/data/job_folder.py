"""The folder of a job that draws answers.

Given a path and the resolved config; gives a locked folder with `config.yaml` in it. Nothing is made before the checks
of the job have passed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from pydantic import BaseModel

from raylign.jobs.config.loading import completed, config_yaml
from raylign.jobs.run.folder import write_atomically
from raylign.jobs.run.output_folder import check_output_folder, hold


def check_job_folder(path: Path, config: BaseModel, resume: bool, may_change: Collection[str]) -> None:
    """Raise unless the job may write there. `may_change`: keys that `resume` allows to differ."""
    check_output_folder(
        path, config_yaml(config) if resume else "", resume, may_change, completed=partial(completed, type(config))
    )


@contextmanager
def job_folder(path: Path, config: BaseModel, resume: bool, may_change: Collection[str]) -> Iterator[Path]:
    """The folder, made, checked and held against other processes while the block runs."""
    check_job_folder(path, config, resume, may_change)
    path.mkdir(parents=True, exist_ok=True)
    with hold(path):
        write_atomically(path / "config.yaml", config_yaml(config))
        yield path
