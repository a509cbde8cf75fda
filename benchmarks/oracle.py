"""Scripted oracles, the truth of generated preference tasks, and the rows of the one that a tiny model can satisfy.

closeness    how near an answer comes to the right number
wanted       how many of an answer's ten digits occur in the prompt's four
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
WEIGHTS = [1 + (place + 2) ** 0.5 / 10 for place in range(NUM_DIGITS)]
"""Of places; as no two choices of places weigh the same, answers hardly ever tie."""


def wanted(completions: list[str], prompt: str, **_: object) -> list[float]:
    """Weighed share of the first ten digits that occur in the prompt; places that an answer lacks count as misses."""
    liked = set(re.findall(r"\d", prompt))
    return [
        sum(weight for weight, digit in zip(WEIGHTS, text.split(), strict=False) if digit in liked) / sum(WEIGHTS)
        for text in completions
    ]


def write_digits(file: Path, seed: int, num_rows: int = 4000, liked_share: float = 0.25) -> None:
    """Rows of {prompt, response}: four digits in any order, each order once, and ten to answer with, of which
    `liked_share` are drawn from the four and the others from all."""
    draw = random.Random(seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    prompts: set[tuple[str, ...]] = set()
    while len(prompts) < num_rows:
        prompts.add(tuple(draw.sample("0123456789", 4)))
    with file.open("w") as out:
        for liked in sorted(prompts, key=lambda _: draw.random()):
            digits = [draw.choice(liked if draw.random() < liked_share else "0123456789") for _ in range(NUM_DIGITS)]
            out.write(json.dumps({"prompt": " ".join(liked) + " =", "response": " " + " ".join(digits)}) + "\n")
