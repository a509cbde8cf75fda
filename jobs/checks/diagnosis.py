"""One line of what `raylign doctor` found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "bad"]


@dataclass(frozen=True)
class Diagnosis:
    """One line of the table."""

    topic: str
    status: Status
    finding: str
    advice: str = ""
    """What to do; empty where all is well."""
