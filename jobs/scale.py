"""`raylign scale RUN --engines N`: engines join or leave a run while it goes on.

Given a run folder that this machine sees, and how many engines the run is to have; leaves a request there, says what
the run answers, and ends when the engines serve or are gone.
"""

from __future__ import annotations

import time
from pathlib import Path

from pydantic import BaseModel, Field

from raylign.actors.waiting import REPORT_S
from raylign.jobs.run.output_folder import is_held
from raylign.jobs.run.scale_request import ask, read_answer, read_request

LOOKS_EVERY_S = 0.2
EXIT_NOT_ALL = 1


class ScaleConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """How many engines a live run is to have."""

    run: Path
    """Folder of the run; `raylign scale RUN --engines N` says the same."""
    engines: int = Field(ge=1, le=100_000)
    """So many from now on."""
    deadline_s: float = Field(3600, gt=0)
    """How long to wait for the run; it goes on with the request after that too."""


def scale(config: ScaleConfig) -> int:
    """Exit code 1 where some engines could not join."""
    folder = config.run
    check_is_live(folder)
    request = ask(folder, config.engines)
    began, told, reported_s = time.monotonic(), "", 0.0
    try:
        while True:
            said = read_answer(folder, request)
            waited_s = time.monotonic() - began
            if said is not None and said.message != told:
                told = said.message
                if said.state == "refused":
                    raise ValueError(f"{folder}: {told}")
                print(told, flush=True)
                if said.state != "under way":
                    return EXIT_NOT_ALL if said.state == "failed" else 0
            if not is_held(folder):
                raise ValueError(f"{folder}: the run ended before its engines were {config.engines}")
            if (last := read_request(folder)) is not None and last.request_id != request.request_id:
                raise ValueError(f"{folder}: meanwhile somebody has asked for {last.num_engines} engines")
            if waited_s > config.deadline_s:
                raise ValueError(f"{folder}: no end after {waited_s:.0f} s (deadline_s); the run goes on with it")
            if waited_s - reported_s > REPORT_S:
                reported_s = waited_s
                why = "engines start, or finish what they have" if told else "it serves requests from its first step on"
                print(f"waiting for the run since {waited_s:.0f} s: {why}", flush=True)
            time.sleep(LOOKS_EVERY_S)
    except KeyboardInterrupt:
        print("no longer waiting; the run goes on with it", flush=True)
        raise


def check_is_live(folder: Path) -> None:
    """Raise unless a run goes on in the folder."""
    if not (folder / "config.yaml").is_file() or not (folder / "checkpoints").is_dir():
        raise ValueError(f"{folder} is no run folder: it has no config.yaml and checkpoints/")
    if not is_held(folder):
        raise ValueError(
            f"no run goes on in {folder}, as far as its lock tells; a run begins with rollout.num_engines engines "
            "(go on with it by `raylign train … --resume`)"
        )
