"""Ray's job API of one cluster, asked so that whatever is wrong is said in one line and within seconds.

Given the address of a dashboard; gives Ray's `JobSubmissionClient`, whose calls have deadlines. Ray's own client waits
for as long as TCP does where nobody answers, and tells a missing token on twenty lines.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from raylign.actors.cluster_token import refusal, token_headers

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
ANSWER_DEADLINE_S = 5.0
"""For the first answer; a dashboard gives it at once."""
CALL_DEADLINE_S = 120.0
"""Of any later call: the first job of a cluster waits until its agents have started."""
FOLDER_KEY = "raylign_folder"
"""Of a job's metadata: its run folder, and the sign that it is one of ours."""


def dashboard_address(given: str | None) -> str:
    """What a command was given, else what the environment says, else where `ray dashboard` leads."""
    address = given or os.environ.get("RAY_API_SERVER_ADDRESS") or _http(os.environ.get("RAY_ADDRESS"))
    address = (address or DEFAULT_ADDRESS).rstrip("/")
    return address if "://" in address else f"http://{address}"


def connect(given: str | None) -> JobSubmissionClient:
    """A client of a cluster that answers, lets us in and knows jobs."""
    address = dashboard_address(given)
    _check(address)
    import logging

    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.WARNING)
    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray takes it from there before it reads what it was given
    with told(address):
        client = JobSubmissionClient(address)
    asked: Any = client
    asked._do_request = partial(asked._do_request, timeout=CALL_DEADLINE_S)
    return client


@contextmanager
def told(address: str) -> Iterator[None]:
    """What goes wrong between us and the cluster inside, in one line."""
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError:
        raise refusal(address) from None
    except (requests.RequestException, ConnectionError) as error:
        raise ValueError(f"the cluster at {address} does not answer any more: {_short(error)}") from None
    except RuntimeError as error:  # Ray's word for whatever the server refuses
        raise ValueError(f"the cluster at {address} says: {_short(error)}") from None


def jobs_of_ours(client: JobSubmissionClient) -> list[JobDetails]:
    """Jobs that `submit` made, the newest last."""
    found = [job for job in client.list_jobs() if job.submission_id and FOLDER_KEY in (job.metadata or {})]
    return sorted(found, key=lambda job: job.start_time or 0)


def find_job(client: JobSubmissionClient, wanted: str | None) -> JobDetails:
    """By its id, or the newest of ours."""
    known = jobs_of_ours(client)
    if wanted is None and known:
        return known[-1]
    for job in client.list_jobs():
        if wanted is not None and job.submission_id == wanted:
            return job
    names = ", ".join(str(job.submission_id) for job in known[-5:]) or "none"
    if wanted is None:
        raise ValueError("no job of raylign is on this cluster: start one with `raylign submit RECIPE`")
    raise ValueError(f"{wanted}: no such job on this cluster; the newest of raylign's: {names}")


def _check(address: str) -> None:
    """Raise where nobody answers, somebody else does, or the token is missing or wrong."""
    import requests

    advice = "give the address of the dashboard by --address (`ray dashboard cluster.yaml` leads to it, port 8265)"
    try:
        answer = requests.get(f"{address}/api/jobs/", timeout=ANSWER_DEADLINE_S, headers=token_headers(address))
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
        raise ValueError(f"address is {address}: not an address ({_short(error)}); {advice}") from None
    except requests.RequestException as error:
        raise ValueError(f"address is {address}: no Ray dashboard answers there ({_short(error)}); {advice}") from None
    if answer.status_code in (401, 403):
        raise refusal(address)
    try:
        is_list = answer.ok and isinstance(answer.json(), list)
    except ValueError:
        is_list = False
    if not is_list:
        raise ValueError(
            f"address is {address}: something answers there (status {answer.status_code}; a proxy?), but not Ray's job "
            f"API; {advice}"
        )


def _http(address: str | None) -> str | None:
    return address if address and address.startswith(("http://", "https://")) else None


def _short(error: BaseException) -> str:
    """The first line of an error, and of a chain of them the cause."""
    while isinstance(error.args[0] if error.args else None, BaseException):
        error = error.args[0]
    reason: Any = getattr(error, "reason", error)
    first = (str(reason).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^<?HTTPS?Connection.*?\): ", "", first)[:300]
