"""What the ranks of a group that has ended said last.

Given Ray Train's error; gives a line.
"""

from __future__ import annotations

from collections.abc import Mapping


def last_words(error: BaseException | None) -> str:
    """Of each rank that failed, where Ray Train tells them apart: a line, without its account of the process."""
    failures: Mapping[int, BaseException] = getattr(error, "worker_failures", {})
    return "; ".join(f"rank {rank}: {_words_of(why)}" for rank, why in sorted(failures.items())) or str(error)


def _words_of(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    pid = next((f"process {line[4:-1]}" for line in lines if line.startswith("pid=")), "its process")
    told = next((line for line in lines if "Worker exit detail: " in line), None) or lines[0]
    detail = told.split("Worker exit detail: ")[-1].split(" Some common causes")[0]
    return f"{pid}: {detail}"
