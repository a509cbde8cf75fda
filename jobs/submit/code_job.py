"""A job of the code of here: started on a cluster, and, where it is short, followed to its end.

Given a client and words of a command line of ours; gives the job's id, or the exit code of the job.
"""

from __future__ import annotations

import re
import secrets
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from raylign.jobs.submit.client import connect, dashboard_address, told
from raylign.jobs.submit.follow import follow
from raylign.jobs.submit.package import copy_code

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient


def run_code_job(address: str, name: str, words: Sequence[str], environment: Mapping[str, str]) -> int:
    """`raylign WORDS` within the cluster; its output is printed here, and its exit code given back."""
    client = connect(address)
    with told(dashboard_address(address)):
        job_id = start_code_job(client, name, words, copy_code, environment=environment)
    return follow(client, job_id, address)


def start_code_job(
    client: JobSubmissionClient,
    name: str,
    words: Sequence[str],
    fill: Callable[[Path], None],
    metadata: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Its id, known before anybody is asked. `fill`: puts what travels into a folder."""
    word = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "run"
    job_id = f"{word}-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    with tempfile.TemporaryDirectory(prefix="raylign-submit-") as folder:
        fill(Path(folder))
        try:
            return client.submit_job(
                entrypoint=f"exec python -m raylign.jobs {shlex.join(words)}",
                submission_id=job_id,
                runtime_env={"working_dir": folder, "env_vars": dict(environment or {})},
                metadata=dict(metadata or {}),
            )
        except KeyboardInterrupt:
            print(f"stopped while submitting {job_id}: `raylign submit status` says whether it was taken")
            raise
