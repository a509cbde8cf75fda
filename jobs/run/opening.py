"""A run from a config: everything opened and started, and ended again whatever happens in between.

Given a `TrainConfig`; gives a `Run` inside a context. What cannot start is an error before engines start where that can
be known: rows, folder, checkpoint.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import yaml

from raylign.jobs.config.loading import completed
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.curricula.base import Curriculum
from raylign.jobs.curricula.registry import num_steps_of, open_curriculum
from raylign.jobs.run.checkpoints import Checkpoint, CheckpointStore
from raylign.jobs.run.copying import Copying, bring_back
from raylign.jobs.run.folder import RunFolder
from raylign.jobs.run.held_out import HeldOut
from raylign.jobs.run.parts import RunParts
from raylign.jobs.run.provenance import printed_to, write_start
from raylign.jobs.run.recorder import Recorder
from raylign.jobs.run.run import Run
from raylign.jobs.run.scale_request import forget
from raylign.jobs.run.scaling import scaling
from raylign.jobs.run.stop_request import StopRequest
from raylign.learners.engines.state_files import check_state
from raylign.rollout.model_folder import load_tokenizer


@asynccontextmanager
async def open_run(
    config: TrainConfig,
    run_class: type[Run] = Run,
    parts: RunParts | None = None,
    after: str = "",
    copying: Copying | None = None,
) -> AsyncIterator[Run]:
    """Everything started; everything ended again. `run_class`, `parts`: of benchmarks, which watch or script a run, and
    of a run that goes on by itself `after` something. `copying`: what keeps the folder's copy."""
    tokenizer = load_tokenizer(config.model.path)
    curriculum = open_curriculum(config, tokenizer)
    held_out = HeldOut(config, tokenizer)
    bring_back(config)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    folder = RunFolder.create(config.folder, text, config.resume, partial(completed, type(config)))
    forget(folder.path)
    config = config.model_copy(update={"num_steps": num_steps_of(config, len(curriculum.rows))})
    checkpoints = CheckpointStore(folder.checkpoints_path, config.checkpoints.keep_last)
    if copying is not None:
        copying.watch(checkpoints)
    checkpoints.clean()
    checkpoint = checkpoints.latest() if config.resume else None
    if checkpoint is not None:
        check_state(checkpoint.state_path)
        checkpoint = checkpoints.for_ranks(checkpoint, config.learner.num_ranks)
        check_same_rows(checkpoint, curriculum)
        curriculum.load(checkpoint.path)
    record = checkpoint.record if checkpoint else None
    recorder = Recorder(config, folder, record)
    parts = parts or RunParts(config)
    stop = StopRequest(recorder.say)
    run = run_class(config, curriculum, parts, held_out, folder, checkpoints, recorder, stop, record)
    write_start(folder.path, config.model.path, after)
    with stop.listening(), printed_to(folder.append_log):
        try:
            engines = " and the engines" if parts.num_engines and not parts.keeps_engines else ""
            with recorder.waiting("starting the learner" + engines):
                rows = curriculum.run_rows(config.num_steps)
                await parts.start(config.num_steps, folder.path, checkpoint, rows)
            recorder.started()
            async with scaling(config, parts, folder.path, recorder):
                yield run
        except Exception as error:
            folder.append_log(f"ended by {type(error).__name__}: {error}")
            raise
        finally:
            await end(curriculum, parts, recorder, checkpoint)


async def end(
    curriculum: Curriculum, parts: RunParts, recorder: Recorder, checkpoint: Checkpoint | None = None
) -> None:
    """Reverse order, and the rest whatever happens to one."""
    try:
        await curriculum.stop()
    finally:
        try:
            await parts.stop()
        finally:
            if checkpoint is not None and checkpoint.whole_state_path is not None:
                shutil.rmtree(checkpoint.whole_state_path, ignore_errors=True)
            recorder.close()


async def save_after(first: Exception, run: Run) -> None:
    """What it learned, after an error that is raised again: it stays the first, whatever hinders the saving."""
    try:
        await run.save_progress()
    except Exception as second:
        first.add_note(f"and what was trained since the last checkpoint could not be saved: {second}")


def check_same_rows(checkpoint: Checkpoint, curriculum: Curriculum) -> None:
    """A resumed run must read the same data."""
    was, now = checkpoint.record.data_fingerprint, curriculum.rows.fingerprint
    if was != now:
        raise ValueError(
            f"the data changed since {checkpoint.path} was written (fingerprint {was}, now {now}): rows could be "
            "trained twice or never; restore them or use a new name"
        )
