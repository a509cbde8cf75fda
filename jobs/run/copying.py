"""A run's copy kept up to date beside the training: a round after every checkpoint, the last at the end.

Given the copy's address in the config; nothing waits for a round but the end of the run, which is an error where the
last round failed: whoever reads the copy later must not take an old one for the result.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from raylign.actors.waiting import wait_for
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.run.checkpoints import CheckpointStore
from raylign.jobs.run.run_copy import RunCopy, RunCopyError


def check_copy(config: TrainConfig) -> str:
    """What will happen with `checkpoints.copy_to`; raises where it would overwrite a run or cannot be written."""
    assert config.checkpoints.copy_to is not None
    copy = RunCopy(config.checkpoints.copy_to)
    copy.check()
    if not copy.holds_a_run():
        return f"{copy.address} after every checkpoint"
    if not config.resume:
        raise ValueError(f"{copy.address} holds a run: go on with it by --resume, or choose another address")
    there = max(copy.steps(), default=0)
    if _is_gone(config.folder):
        return f"{copy.address}; {config.folder} is not there: it is brought back at step {there}"
    latest = CheckpointStore(config.folder / "checkpoints").latest()
    here = latest.record.step if latest else 0
    if here < there:
        raise ValueError(
            f"{copy.address} is at step {there} and {config.folder} at step {here}: move that folder away to go on "
            "from the copy, or give the run another address"
        )
    return f"{copy.address} after every checkpoint; it is at step {there}"


def bring_back(config: TrainConfig) -> None:
    """The run folder from its copy, where a resumed run has lost it."""
    if config.resume and config.checkpoints.copy_to is not None and _is_gone(config.folder):
        copy = RunCopy(config.checkpoints.copy_to)
        if copy.holds_a_run():
            step = copy.download(config.folder)
            print(f"brought back from {copy.address}: step {step}", flush=True)


@asynccontextmanager
async def copied(config: TrainConfig) -> AsyncIterator[Copying | None]:
    """Rounds from here to the end of the block, and one after it; without `checkpoints.copy_to`, none. It lasts longer
    than a start of the run: one that goes back to its checkpoint does not wait for its copy."""
    if config.checkpoints.copy_to is None:
        yield None
        return
    copying = Copying(RunCopy(config.checkpoints.copy_to), config.folder)
    try:
        yield copying
    except BaseException as error:
        try:
            await copying.finish(config.checkpoints.copy_deadline_s)
        except Exception as second:
            error.add_note(str(second))
        raise
    await copying.finish(config.checkpoints.copy_deadline_s)


class Copying:
    """One round at a time, in a thread."""

    def __init__(self, copy: RunCopy, folder: Path) -> None:
        self._copy, self._folder = copy, folder
        self._checkpoints: CheckpointStore | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="run-copy")
        self._newest = 0
        self._last: Future[None] | None = None

    def watch(self, checkpoints: CheckpointStore) -> None:
        """The folder is the run's from here on, and every save begins a round."""
        self._checkpoints = checkpoints
        checkpoints.saved = self.begin

    def begin(self) -> None:
        """A round, after the one that runs; those between are left out."""
        self._newest += 1
        self._last = self._thread.submit(self._round, self._newest)

    def _round(self, number: int) -> None:
        if number < self._newest or self._checkpoints is None:
            return
        try:
            self._copy.upload(self._folder, self._checkpoints.keep_last, self._checkpoints.held)
        except (OSError, RunCopyError) as error:
            if number < self._newest:
                return
            print(f"{error}; tried again after the next checkpoint", flush=True)
            raise

    async def finish(self, deadline_s: float) -> None:
        """The last round, unless the run never had its folder. Raises `RunCopyError` where the copy is not the run."""
        self.begin()
        assert self._last is not None
        try:
            await wait_for(
                asyncio.wrap_future(self._last),
                f"the copy at {self._copy.address}",
                deadline_s,
                setting="checkpoints.copy_deadline_s",
            )
        except Exception as error:
            raise RunCopyError(
                f"the run is whole in {self._folder}, but not its copy: {error}. Copy that folder, or run the same "
                "command with --resume"
            ) from error
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)


def _is_gone(folder: Path) -> bool:
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
