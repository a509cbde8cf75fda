"""Which rewards compare answers with the rows' references, so that a row without one can earn nothing.

Given the rewards of a config; says whether any does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import BaseModel

COMPARING = frozenset(
    {
        "exact",
        "numeric",
        "boxed",
        "hash",
        "tag",
        "math_verify",
        "bleu",
        "rouge",
        "bleu_rouge_f1",
        "bleu_rm",
        "bertscore",
        "choice",
        "task",
    }
)
"""`function` and `http` are given the references and may do without them; the rest look elsewhere."""


def compare_with_references(rewards: Sequence[BaseModel]) -> bool:
    """Whether one of the rewards fails where a row has no reference."""
    return any(_compares(reward) for reward in rewards)


def _compares(reward: BaseModel) -> bool:
    name, pattern = getattr(reward, "name", None), getattr(reward, "pattern", "")
    return name in COMPARING or (name == "regex" and re.compile(pattern).groups > 0)
