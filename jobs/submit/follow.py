"""What a job says, while it says it, and how it ended.

Given a client and a job's id; prints until the job ends. Ctrl-C leaves: the job goes on, and one line says how to come
back. A connection that is cut is made again, without a line twice.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from raylign.jobs.submit.client import DEFAULT_ADDRESS, dashboard_address, told

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

RECONNECT_FOR_S = 60.0
RECONNECT_EVERY_S = 2.0


def follow(client: JobSubmissionClient, job_id: str, given_address: str | None) -> int:
    """Print until it ends; gives the job's exit code."""
    try:
        with told(dashboard_address(given_address)):
            asyncio.run(_print_all(client, job_id))
            job = client.get_job_info(job_id)
    except KeyboardInterrupt:
        print(f"\nleft; job {job_id} goes on. {how_to(job_id, given_address)}", flush=True)
        raise
    return say_end(job)


def how_to(job_id: str, given_address: str | None) -> str:
    """Follow again, and stop."""
    address = dashboard_address(given_address)
    more = "" if address == DEFAULT_ADDRESS else f" --address {address}"
    return f"Follow: raylign submit logs {job_id} --follow{more}   stop: raylign submit stop {job_id}{more}"


def say_end(job: JobDetails) -> int:
    """One line on how a job ended; its exit code, 1 where it has none."""
    code = 0 if job.status == "SUCCEEDED" else job.driver_exit_code or 1
    print(f"job {job.submission_id}: {ending(job)}", flush=True)
    return code


def ending(job: JobDetails) -> str:
    """Its state, and for one that failed the first line of why."""
    why = (job.message or "").strip().splitlines()
    return f"{job.status}" + (f" ({why[0][:200]})" if why and job.status == "FAILED" else "")


async def _print_all(client: JobSubmissionClient, job_id: str) -> None:
    import aiohttp

    num_printed, silent_since = 0, time.monotonic()
    while True:
        num_seen = 0
        try:
            async for text in client.tail_job_logs(job_id):  # from the beginning, each time
                num_seen += len(text)
                if num_seen > num_printed:
                    print(text[len(text) - (num_seen - num_printed) :], end="", flush=True)
                    num_printed, silent_since = num_seen, time.monotonic()
            if client.get_job_status(job_id).is_terminal():
                return
        except (RuntimeError, aiohttp.ClientError, ConnectionError, OSError) as error:
            if time.monotonic() - silent_since > RECONNECT_FOR_S:
                raise ConnectionError(f"its log could not be read for {RECONNECT_FOR_S:g} s: {error}") from None
        await asyncio.sleep(RECONNECT_EVERY_S)
