"""`raylign submit`: a training run as a job of a Ray cluster, and its status, logs and end.

Given a recipe and the address of a dashboard; gives a job with the code of here. Its run folder is its identity: while
one job works in it no second is started, and a job that comes later resumes it.
"""

from __future__ import annotations

import sys
import time
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from raylign.actors.waiting import REPORT_S
from raylign.jobs.submit.client import FOLDER_KEY, connect, dashboard_address, find_job, jobs_of_ours, told
from raylign.jobs.submit.code_job import start_code_job
from raylign.jobs.submit.config import JobConfig, JobLogsConfig, JobStatusConfig, JobStopConfig, SubmitConfig
from raylign.jobs.submit.follow import ending, follow, how_to
from raylign.jobs.submit.package import RECIPE, files_to_carry, fill_package

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

POLL_S = 1.0


def submit(config: SubmitConfig) -> int:
    """Start the job, or find the one that works in its run folder; 0, or with `follow` the job's exit code."""
    files_to_carry(config.model_dump(mode="json"))  # what cannot travel is told before anybody is asked
    client = connect(config.address)
    with told(dashboard_address(config.address)):
        running = _job_in(client, config.folder)
        if running is not None:
            job_id = str(running.submission_id)
            print(
                f"job {job_id} works in {config.folder} already ({running.status}): nothing was submitted", flush=True
            )
        else:
            job_id = _start(client, config)
            print(f"job {job_id} submitted; run folder {config.folder}", flush=True)
    if config.follow:
        return follow(client, job_id, config.address)
    print(how_to(job_id, config.address))
    return 0


def _start(client: JobSubmissionClient, config: SubmitConfig) -> str:
    return start_code_job(
        client,
        config.name,
        ["train", "--config", RECIPE],
        partial(fill_package, config),
        metadata={FOLDER_KEY: str(config.folder), "name": config.name},
        # on `stop` the run finishes its step and saves; Ray would kill it after 3 s
        environment={"RAY_JOB_STOP_WAIT_TIME_S": str(int(config.learner.step_deadline_s))},
    )


def _job_in(client: JobSubmissionClient, folder: Path) -> JobDetails | None:
    """The job that works in a run folder, or will."""
    for job in jobs_of_ours(client):
        if (job.metadata or {})[FOLDER_KEY] == str(folder) and not job.status.is_terminal():
            return job
    return None


def status(config: JobStatusConfig) -> None:
    """A line for each job, the newest last."""
    client = connect(config.address)
    with told(dashboard_address(config.address)):
        jobs = [find_job(client, config.job)] if config.job else jobs_of_ours(client)
    if not jobs:
        print("no job of raylign is on this cluster: start one with `raylign submit RECIPE`")
    for job in jobs:
        started = f"{datetime.fromtimestamp(job.start_time / 1000):%Y-%m-%d %H:%M:%S}" if job.start_time else "-"
        print(f"{job.submission_id}  {started}  {(job.metadata or {}).get(FOLDER_KEY, '-')}  {ending(job)}")


def logs(config: JobLogsConfig) -> int:
    """All that a job said so far; with `follow` until it ends."""
    client = connect(config.address)
    with told(dashboard_address(config.address)):
        job_id = _id_of(client, config)
        if not config.follow:
            sys.stdout.write(client.get_job_logs(job_id))
            return 0
    return follow(client, job_id, config.address)


def stop(config: JobStopConfig) -> int:
    """Ask the job to save and end, and wait until it has; Ctrl-C only ends the waiting."""
    client = connect(config.address)
    with told(dashboard_address(config.address)):
        job = find_job(client, config.job)
        job_id = str(job.submission_id)
        if job.status.is_terminal():
            print(f"job {job_id} has ended before: {ending(job)}")
            return 0
        client.stop_job(job_id)
        print(f"job {job_id} finishes its step and saves", flush=True)
        try:
            began_s = told_s = time.monotonic()
            while not (job := client.get_job_info(job_id)).status.is_terminal():  # Ray ends it at its own deadline
                time.sleep(POLL_S)
                if time.monotonic() - told_s > REPORT_S:
                    told_s = time.monotonic()
                    print(f"waiting for job {job_id} to end since {told_s - began_s:.0f} s", flush=True)
        except KeyboardInterrupt:
            print(f"left; the job still ends by itself. {how_to(job_id, config.address)}", flush=True)
            raise
    print(f"job {job_id}: {ending(job)}; `raylign submit` with the same recipe goes on from its last checkpoint")
    return 0


def _id_of(client: JobSubmissionClient, config: JobConfig) -> str:
    return str(find_job(client, config.job).submission_id)
