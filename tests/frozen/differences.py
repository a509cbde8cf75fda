"""How two frozen outputs differ, in a few lines that a reader can act on.

Given the frozen and the new value; gives the first differences, or nothing where they are equal.
"""

from __future__ import annotations

import difflib

MAX_LINES = 40


def text_difference(frozen: str, now: str) -> str:
    """A unified diff, cut where it gets long."""
    lines = list(difflib.unified_diff(frozen.splitlines(), now.splitlines(), "frozen", "now", lineterm="", n=1))
    cut = [f"… {len(lines) - MAX_LINES} more lines"] if len(lines) > MAX_LINES else []
    return "\n".join(lines[:MAX_LINES] + cut)
