"""A scripted oracle: how near an answer comes to the right number. The truth of a generated preference task."""

from __future__ import annotations

import re

NUMBER = re.compile(r"\s*(-?\d+)\s*")


def closeness(completions: list[str], references: list[str], **_: object) -> list[float]:
    """1/(1 + |answer − truth|); 0 for what is no number."""
    truth = int(references[0])
    return [1 / (1 + abs(int(found[1]) - truth)) if (found := NUMBER.fullmatch(text)) else 0.0 for text in completions]
