"""BM25 over a library of 100,000 passages of 100 words: indexing, queries of 8 words, memory; on one core.

Given nothing; seconds to index, queries a second from the index on disk, and the resident memory of the process that
answered them (with and without the file pages that it has mapped, which the kernel takes back when it needs them).

    .venv/bin/python -m benchmarks.retrieval [--rounds ROUNDS] [--steps QUERIES]
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from benchmarks.measurement import Measurement, command_line, engine_core

NUM_PASSAGES, NUM_WORDS, NUM_KINDS, WORDS_A_QUERY, MOST = 100_000, 100, 200_000, 8, 10_000
MAX_INDEX_S, MIN_QUERIES_PER_S, MAX_RESIDENT_MB = 60, 200, 400


def write_library(path: Path, num_passages: int = NUM_PASSAGES) -> None:
    """Words as frequent as in a language: the r-th most frequent one comes with weight 1 / r."""
    draw = random.Random(0)
    words = [f"w{number:x}" for number in range(NUM_KINDS)]
    heights = list(accumulate(1 / (1 + place) for place in range(NUM_KINDS)))
    with path.open("w") as file:
        for _ in range(num_passages):
            file.write(json.dumps({"text": " ".join(draw.choices(words, cum_weights=heights, k=NUM_WORDS))}) + "\n")


def queries(path: Path, num_queries: int) -> Iterator[str]:
    """Eight words that stand together in a passage, common ones and rare ones."""
    draw = random.Random(1)
    with path.open() as file:
        passages = [json.loads(line)["text"].split() for _, line in zip(range(num_queries), file, strict=False)]
    for passage in passages:
        start = draw.randrange(len(passage) - WORDS_A_QUERY)
        yield " ".join(passage[start : start + WORDS_A_QUERY])


def build(library: str, folder: str) -> dict[str, float]:
    from raylign.jobs.synthetic.retrieval_index import ensure_index

    began, cpu = time.monotonic(), time.process_time()
    ensure_index([Path(library)], Path(folder))
    return {"wall_s": time.monotonic() - began, "cpu_s": time.process_time() - cpu, "peak_mb": memory_mb("VmHWM")}


def ask(library: str, folder: str, num_queries: int) -> dict[str, float]:
    from raylign.jobs.synthetic.retrieval import PassageIndex

    asked = list(queries(Path(library), num_queries))
    (place,) = (path for path in Path(folder).iterdir() if not path.name.startswith("."))
    began = time.monotonic()
    index = PassageIndex(place)
    opened_s = time.monotonic() - began
    began, cpu = time.monotonic(), time.process_time()
    num_hits = [len(index.search(query, MOST)) for query in asked]
    found = {
        "opened_s": opened_s,
        "per_s": num_queries / (time.monotonic() - began),
        "per_cpu_s": num_queries / (time.process_time() - cpu),
        "resident_mb": memory_mb("VmRSS"),
        "own_mb": memory_mb("RssAnon"),
        "hits": statistics.mean(num_hits),
    }
    return found


def memory_mb(name: str) -> float:
    """A line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith(f"{name}:"))


def measure(rounds: int = 3, steps: int = 1000) -> list[dict[str, Any]]:
    """Each round builds anew and asks in a fresh process; `steps` is the number of queries."""
    built: list[dict[str, float]] = []
    asked: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        library = Path(name) / "library.jsonl"
        write_library(library)
        for number in range(rounds):
            folder = Path(name) / f"index{number}"
            built.append(_in_a_process("build", library, folder))
            asked.append(_in_a_process("ask", library, folder, steps))
    index_s = [each["wall_s"] for each in built]
    per_s = [each["per_s"] for each in asked]
    resident = [each["resident_mb"] for each in asked]

    def median(rows: list[dict[str, float]], key: str) -> float:
        return statistics.median(row[key] for row in rows)

    rows = [
        Measurement(
            name=f"retrieval: {NUM_PASSAGES:,} passages of {NUM_WORDS} words indexed, one core",
            unit="s",
            ours=statistics.median(index_s),
            spread=(min(index_s), max(index_s)),
            goal=f"<= {MAX_INDEX_S}",
            notes=[f"{median(built, 'cpu_s'):.1f} CPU s, at most {median(built, 'peak_mb'):,.0f} MB"],
        ),
        Measurement(
            name=f"retrieval: queries of {WORDS_A_QUERY} words, best {MOST:,}, one core",
            unit="queries/s",
            ours=statistics.median(per_s),
            spread=(min(per_s), max(per_s)),
            goal=f">= {MIN_QUERIES_PER_S}",
            notes=[
                f"{median(asked, 'per_cpu_s'):.0f} a CPU second, {median(asked, 'hits'):,.0f} passages found a query, "
                f"index opened in {median(asked, 'opened_s'):.1f} s"
            ],
        ),
        Measurement(
            name="retrieval: resident memory after these queries",
            unit="MB",
            ours=statistics.median(resident),
            spread=(min(resident), max(resident)),
            goal=f"<= {MAX_RESIDENT_MB}",
            notes=[f"{median(asked, 'own_mb'):.0f} MB of them are the process's own, the rest pages of mapped files"],
        ),
    ]
    return [row.row() for row in rows]


def _in_a_process(step: str, *arguments: object) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.retrieval", step, *map(str, arguments)]

    def on_one_core() -> None:
        os.sched_setaffinity(0, {engine_core()})

    done = subprocess.run(command, check=True, capture_output=True, text=True, preexec_fn=on_one_core)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])  # after what a long build says of itself
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["build"]:
        print(json.dumps(build(sys.argv[2], sys.argv[3])))
    elif sys.argv[1:2] == ["ask"]:
        print(json.dumps(ask(sys.argv[2], sys.argv[3], int(sys.argv[4]))))
    else:
        command_line(measure, __doc__, 1000)
