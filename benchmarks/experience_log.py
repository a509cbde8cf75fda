"""The experience log against a bare hand-over: durable appends through its actor, and the same bytes to an actor that
only takes them, in turn in one run.

Given nothing; prints items/s of both and their ratio for 1 to 16 producers, and exits 1 below the goals: 0.8 with one
producer, and as much with 16 as with one. A call carries 64 distinct items (groups) of 18 KB as one Arrow batch;
each producer is an actor that waits for the answer before its next call.

    .venv/bin/python benchmarks/experience_log.py [--num_tokens 5500 --items_per_call 8]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

GOAL, FLAT = 0.8, 0.85
ITEMS_PER_CALL, NUM_COMPLETIONS, NUM_TOKENS = 64, 8, 250
PRODUCERS = (1, 2, 4, 8, 16)


class BareTaker:
    """The other end of a bare hand-over: looks at one byte and answers."""

    async def append(self, message: Any) -> int:
        return int(message[-1])

    async def close(self) -> None:
        """Nothing to close."""


class Producer:
    """Sends batches until its time is over; each call's items are new."""

    def __init__(self, number: int, num_tokens: int, items_per_call: int) -> None:
        from raylign.rollout.experience.schema import groups_to_batch

        self._next = number * 10_000_000
        self._items_per_call = items_per_call
        self._batches = [groups_to_batch(some_groups(number * 100 + n, num_tokens, items_per_call)) for n in range(4)]

    def ready(self) -> int:
        """Bytes of one item."""
        return int(self._batches[0].nbytes) // self._items_per_call

    def send(self, taker: Any, seconds: float, num_in_flight: int) -> tuple[int, float]:
        """(items, seconds). Waits for the answer to a call once so many are under way."""
        import pyarrow as pa
        import ray

        from raylign.rollout.experience.schema import batch_to_message

        start = time.perf_counter()
        num_calls = 0
        under_way: list[Any] = []
        while time.perf_counter() < start + seconds:
            batch = self._batches[num_calls % len(self._batches)]
            ordinals = pa.array(np.arange(self._next, self._next + self._items_per_call))
            batch = batch.set_column(1, batch.schema.field(1), ordinals)  # never twice: the log would refuse it
            self._next += self._items_per_call
            under_way.append(taker.append.remote(batch_to_message(batch)))
            num_calls += 1
            if len(under_way) == num_in_flight:
                ray.get(under_way.pop(0), timeout=60)
        ray.get(under_way, timeout=60)
        return num_calls * self._items_per_call, time.perf_counter() - start


def some_groups(seed: int, num_tokens: int, num_groups: int) -> list[Any]:
    """Of 8 completions each: about 18 KB with 250 tokens."""
    from raylign.rollout.sample import Completion, Group, Prompt, VersionSpan

    random = np.random.default_rng(seed)

    def completion() -> Completion:
        token_ids = random.integers(0, 30_000, num_tokens).astype(np.int32)
        logps = -random.random(num_tokens).astype(np.float32)
        return Completion(token_ids, logps, (VersionSpan(3, 0, num_tokens),), "stop", "the answer is " + "so " * 50)

    def group(ordinal: int) -> Group:
        prompt_ids = random.integers(0, 30_000, 40).astype(np.int32)
        rewards = random.random(NUM_COMPLETIONS).astype(np.float32)
        prompt = Prompt(f"bench-{ordinal}", ordinal, "what is 2 + 3? " * 8, prompt_ids, ("5",))
        completions = tuple(completion() for _ in range(NUM_COMPLETIONS))
        return Group(prompt, completions, {"exact": rewards}, rewards, (), {"generate": 1.0, "score": 0.1})

    return [group(n) for n in range(num_groups)]


def rate(taker: Any, producers: list[Any], seconds: float, num_in_flight: int = 1) -> float:
    """Items/s of all producers together."""
    import ray

    answers = ray.get(
        [producer.send.remote(taker, seconds, num_in_flight) for producer in producers], timeout=seconds * 10 + 60
    )
    return sum(items for items, _ in answers) / max(took for _, took in answers)


def measure(
    seconds: float = 0.4,
    num_rounds: int = 3,
    pairs_per_round: int = 4,
    folder: Path | None = None,
    num_tokens: int = NUM_TOKENS,
    items_per_call: int = ITEMS_PER_CALL,
) -> dict[str, Any]:
    """Medians by number of producers, and what the goals say. A measurement of one side lasts `seconds`, next to one of
    the other; each round has a new log, in a temporary folder of `folder`."""
    import ray

    from raylign.actors.cluster import ClusterConfig, ray_cluster
    from raylign.actors.experience_host import ExperienceHost
    from raylign.rollout.experience.types import START, ExperienceConfig

    home = Path(tempfile.mkdtemp(dir=folder))
    rows = []
    try:
        with ray_cluster(ClusterConfig(address="local", num_cpus=64, object_store_mib=1024)):
            producer_class: Any = ray.remote(Producer).options(num_cpus=0)
            all_producers = [producer_class.remote(n, num_tokens, items_per_call) for n in range(max(PRODUCERS))]
            item_bytes = ray.get([producer.ready.remote() for producer in all_producers], timeout=120)[0]
            bare = ray.remote(BareTaker).options(num_cpus=0).remote()
            rate(bare, all_producers[:1], 1.0)  # the first calls pay for connections and fresh pages
            for num_producers in PRODUCERS:
                producers = all_producers[:num_producers]
                pairs = []
                for number in range(num_rounds):
                    run = home / f"{num_producers}-{number}"
                    host = ray.remote(ExperienceHost).options(num_cpus=0).remote(run, ExperienceConfig())
                    ray.get(host.start.remote(START), timeout=60)
                    rate(host, producers[:1], 0.3)
                    for _ in range(pairs_per_round):
                        pairs.append((rate(bare, producers, seconds), rate(host, producers, seconds)))
                    ray.kill(host)
                    shutil.rmtree(run)  # before the kernel writes it back: the next measurement has a quiet disk
                ratios = sorted(log_rate / bare_rate for bare_rate, log_rate in pairs)
                median_bare, median_log = (statistics.median(rates) for rates in zip(*pairs, strict=True))
                rows.append(
                    {
                        "producers": num_producers,
                        "bare_items_per_s": round(median_bare),
                        "log_items_per_s": round(median_log),
                        "log_gb_per_s": round(median_log * item_bytes / 1e9, 3),
                        "ratio": round(statistics.median(ratios), 3),
                        "ratio_low": round(ratios[len(ratios) // 4], 3),
                        "ratio_high": round(ratios[-1 - len(ratios) // 4], 3),
                    }
                )
    finally:
        shutil.rmtree(home, ignore_errors=True)
    flatness = rows[-1]["log_items_per_s"] / rows[0]["log_items_per_s"]
    return {
        "item_bytes": item_bytes,
        "items_per_call": items_per_call,
        "rows": rows,
        "ratio_one_producer": rows[0]["ratio"],
        "rate_16_over_1": round(flatness, 3),
        "reached": rows[0]["ratio"] >= GOAL and flatness >= FLAT,
    }


def main() -> int:
    """Print the table and the JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--num_tokens", type=int, default=NUM_TOKENS, help="of each of an item's 8 completions")
    parser.add_argument("--items_per_call", type=int, default=ITEMS_PER_CALL)
    arguments = parser.parse_args()
    result = measure(num_tokens=arguments.num_tokens, items_per_call=arguments.items_per_call)
    print(f"{arguments.items_per_call} items of {result['item_bytes'] / 1000:.1f} KB a call")
    print("producers   bare items/s    log items/s   GB/s   ratio (quartiles)")
    for row in result["rows"]:
        print(
            f"{row['producers']:9d} {row['bare_items_per_s']:14,} {row['log_items_per_s']:14,} "
            f"{row['log_gb_per_s']:6.2f}   {row['ratio']:.2f} ({row['ratio_low']:.2f} - {row['ratio_high']:.2f})"
        )
    print(json.dumps(result))
    return 0 if result["reached"] else 1


if __name__ == "__main__":
    sys.exit(main())
