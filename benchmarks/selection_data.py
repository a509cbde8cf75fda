"""Two data sets for selection, of which it is known which rows are contaminated.

Given a folder to write to; gives `trusted.jsonl`, `weighed.jsonl`, `held_out.jsonl` with rows of {question, response,
origin}; `origin` is never read by a run.

generated    sums of two numbers below 20; in `weighed`, 30 % of the responses are another number
given        two files of such rows that the caller names, one clean and one contaminated; and files of
             {instruction, input, output} to learn to read from: `base.jsonl`
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from benchmarks.json_rows import json_rows

Row = dict[str, str]
FILES = ("trusted.jsonl", "weighed.jsonl", "held_out.jsonl")
BASE = "base.jsonl"
CORRUPTED = "corrupted"


def generated(folder: Path, seed: int, num_weighed: int = 1200, num_trusted: int = 300, share: float = 0.3) -> None:
    """Sums; `share` of the rows to weigh are wrong."""
    draw = random.Random(seed)
    trusted, held_out = ([_sum(draw) for _ in range(count)] for count in (num_trusted, 200))
    weighed = [_sum(draw) for _ in range(num_weighed)]
    for place in draw.sample(range(num_weighed), round(share * num_weighed)):
        right = int(weighed[place]["response"])
        wrong = draw.choice([number for number in range(39) if number != right])
        weighed[place] = {**weighed[place], "response": str(wrong), "origin": CORRUPTED}
    write(folder, trusted, weighed, held_out)


def given(folder: Path, clean: Path, contaminated: Path, seed: int, longest: int) -> None:
    """Rows of two files; a tenth of the clean ones is held out. Rows of more than `longest` characters are left out: a
    tiny model's context holds no more."""
    trusted, weighed = ([row for row in json_rows(path) if _length(row) <= longest] for path in (clean, contaminated))
    random.Random(seed).shuffle(trusted)
    num_held_out = len(trusted) // 10
    write(folder, trusted[num_held_out:], weighed, trusted[:num_held_out])


def to_read(folder: Path, files: Sequence[Path], longest: int) -> None:
    """`base.jsonl`: the trusted rows and those of `files` whose question is in none of the other sets."""
    sets = [json_rows(folder / name) for name in FILES]
    questions = {row["question"] for rows in sets for row in rows}
    base = sets[0]
    for file in files:
        for source in json_rows(file):
            question = "\n".join(filter(None, [source["instruction"], source["input"]]))
            row = {"question": question, "response": source["output"], "origin": file.name}
            if row["response"] and question not in questions and _length(row) <= longest:
                base.append(row)
    (folder / BASE).write_text("".join(json.dumps(row) + "\n" for row in base))


def write(folder: Path, trusted: Sequence[Row], weighed: Sequence[Row], held_out: Sequence[Row]) -> None:
    """The three files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in zip(FILES, (trusted, weighed, held_out), strict=True):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def _sum(draw: random.Random) -> Row:
    first, second = draw.randrange(20), draw.randrange(20)
    return {"question": f"{first} + {second} =", "response": str(first + second), "origin": "clean"}


def _length(row: Row) -> int:
    return len(row["question"]) + len(row["response"])
