"""The folder of a job that draws answers: never overwritten, and gone on with only by the same job.

Given a path and the resolved config; gives a locked folder with `config.yaml` in it. Nothing is made before the checks
of the job have passed.
"""

from __future__ import annotations

import fcntl
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel

from raylign.jobs.config.loading import config_yaml
from raylign.jobs.run.folder import config_differences, write_atomically


def check_job_folder(path: Path, config: BaseModel, resume: bool, may_change: Collection[str]) -> None:
    """Raise unless the job may write there. `may_change`: keys that `resume` allows to differ, besides `folder`,
    `resume` and `cluster`."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; choose another folder")
    if not path.is_dir() or not any(path.iterdir()):
        return
    if not resume:
        raise ValueError(f"{path} exists and is not empty: go on with it by --resume, or choose a new name")
    before = path / "config.yaml"
    if not before.is_file():
        raise ValueError(f"{path} has no config.yaml, so it is not a folder to resume; choose a new name")
    differences = [
        difference
        for difference in config_differences(before.read_text(), config_yaml(config))
        if difference.split(":")[0].split(".")[0] not in may_change
    ]
    if differences:
        lines = "\n".join(f"  {difference}" for difference in differences)
        raise ValueError(
            f"the config differs from the one that {path} was started with:\n{lines}\n"
            f"undo the changes, or choose a new name (only {', '.join(sorted(may_change))} may change on resume)"
        )


@contextmanager
def job_folder(path: Path, config: BaseModel, resume: bool, may_change: Collection[str]) -> Iterator[Path]:
    """The folder, made, checked and held against other processes while the block runs."""
    check_job_folder(path, config, resume, may_change)
    path.mkdir(parents=True, exist_ok=True)
    with (path / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another process is writing the folder {path}; wait for it or choose a new name"
            ) from None
        write_atomically(path / "config.yaml", config_yaml(config))
        yield path
