"""Scripted oracles, the truth of generated preference tasks, and the rows of the one that a tiny model can satisfy.

closeness    how near an answer comes to the right number
evenness     how many of an answer's ten digits are even
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

NUMBER = re.compile(r"\s*(-?\d+)\s*")


def closeness(completions: list[str], references: list[str], **_: object) -> list[float]:
    """1/(1 + |answer − truth|); 0 for what is no number."""
    truth = int(references[0])
    return [1 / (1 + abs(int(found[1]) - truth)) if (found := NUMBER.fullmatch(text)) else 0.0 for text in completions]


NUM_DIGITS = 10
EVEN = set("02468")
WEIGHTS = [1 + (place + 2) ** 0.5 / 10 for place in range(NUM_DIGITS)]
"""Of places; as no two choices of places weigh the same, answers hardly ever tie."""


def evenness(completions: list[str], **_: object) -> list[float]:
    """Weighed share of the first ten digits that are even; places that an answer lacks count as misses."""
    return [
        sum(weight for weight, digit in zip(WEIGHTS, text.split(), strict=False) if digit in EVEN) / sum(WEIGHTS)
        for text in completions
    ]


def write_digits(file: Path, seed: int, num_rows: int = 2000) -> None:
    """Rows of {prompt, response}: four digits, each four once, and any ten digits to answer with."""
    draw = random.Random(seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as out:
        for number in draw.sample(range(10_000), num_rows):
            response = "".join(f" {draw.randrange(10)}" for _ in range(NUM_DIGITS))
            out.write(json.dumps({"prompt": " ".join(f"{number:04}") + " =", "response": response}) + "\n")
