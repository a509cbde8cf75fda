"""One line of what `raylign doctor` found, and the rule for memory of any kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from raylign.jobs.checks.machine import GIB

Status = Literal["ok", "warn", "bad"]


@dataclass(frozen=True)
class Diagnosis:
    """One line of the table."""

    topic: str
    status: Status
    finding: str
    advice: str = ""
    """What to do; empty where all is well."""


def enough_memory(topic: str, num_bytes: int, bad_gib: float, warn_gib: float, what: str, advice: str) -> Diagnosis:
    """Free bytes against what is needed and what is comfortable."""
    gib = num_bytes / GIB
    status: Status = "bad" if gib < bad_gib else "warn" if gib < warn_gib else "ok"
    wanted = f"{bad_gib:g} GiB are needed, {warn_gib:g} are comfortable: {advice}"
    return Diagnosis(topic, status, f"{gib:.1f} GiB {what}", "" if status == "ok" else wanted)
