"""Which cores of a CPU machine compute what, when engines and learner compute at the same time.

Given this machine's cores and what the config says about the engines'; gives theirs and the learner's. A thread that
waits for a core which another role holds makes all threads of its own role wait at the next barrier, so nobody shares.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def split_cores(cores: Iterable[int], engine_cores: str) -> tuple[list[int], list[int]]:
    """(engines', learner's): half and half, or what the config gives to engines and the rest; one core is shared."""
    cores = sorted(cores)
    if engine_cores == "auto":
        engines = cores[: len(cores) // 2] or cores
    else:
        engines = [core for core in parse_cores(engine_cores) if core in cores]
    return engines, [core for core in cores if core not in engines] or cores


def share_of(cores: Sequence[int], index: int, num_shares: int) -> list[int]:
    """Share `index` of the cores; with more shares than cores, some share one."""
    share = [core for place, core in enumerate(cores) if place * num_shares // len(cores) == index]
    return share or [cores[index % len(cores)]]


def parse_cores(text: str) -> list[int]:
    """`0-2,5` as 0, 1, 2, 5."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not first.strip().isdigit() or (last and not last.strip().isdigit()):
            raise ValueError(f"cpu_cores is {text!r}: write auto, or cores as `0-2,5`")
        found += range(int(first), int(last or first) + 1)
    return found
