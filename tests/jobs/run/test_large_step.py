"""A step of 2 GiB of responses: what the log's process holds of it, and the loop from the lease to what ranks are sent.

Both ends alone, each a process of its own, without Ray and without engines (`benchmarks/large_step.py` is the whole).
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.large_step import memory_of
from raylign.actors.learner.by_place import by_place
from raylign.jobs.run.metrics import rollout_metrics
from raylign.learners.examples.from_groups import examples_of
from raylign.learners.losses.advantages import group_advantages
from raylign.rollout.experience.log import ExperienceLog
from raylign.rollout.experience.schema import batch_to_message, groups_to_batch
from raylign.rollout.experience.types import ExperienceConfig, Lease
from raylign.rollout.sample import Completion, Group, Prompt, VersionSpan
from tests.patience import HANGS_S

pytestmark = pytest.mark.slow
NUM_BYTES, NUM_GROUPS, NUM_ANSWERS, BYTES_PER_TOKEN = 2 << 30, 64, 7, 12
MOST_MIB = ExperienceConfig().max_unread_mib + 200


@contextmanager
def growth(found: dict[str, float]) -> Iterator[None]:
    """MiB by kind, at most, beyond what this process holds when the block begins."""
    over, before = threading.Event(), memory_of(os.getpid())

    def watch() -> None:
        while not over.wait(0.01):
            for kind, value in memory_of(os.getpid()).items():
                found[kind] = max(found.get(kind, 0.0), value - before[kind])

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def log_a_step(folder: Path, answers: Any) -> None:
    """A group an append; answers with the lease."""
    num_tokens = NUM_BYTES // (NUM_GROUPS * NUM_ANSWERS * BYTES_PER_TOKEN)
    tokens, logps = np.arange(num_tokens, dtype=np.int32), -np.ones(num_tokens, np.float32)
    answer = Completion(tokens, logps, (VersionSpan(0, 0, num_tokens),), "stop", "word" * num_tokens)
    rewards = np.arange(NUM_ANSWERS, dtype=np.float32)
    found: dict[str, float] = {}
    with ExperienceLog.open(folder, ExperienceConfig()) as log, growth(found):
        for ordinal in range(NUM_GROUPS):
            prompt = Prompt(str(ordinal), ordinal, "q", tokens[:3])
            group = Group(prompt, (answer,) * NUM_ANSWERS, {"numeric": rewards}, rewards)
            log.append(batch_to_message(groups_to_batch([group])))
        lease = log.lease(NUM_GROUPS, 60)
        assert lease is not None
    answers.put((found, lease))


def make_examples(lease: Lease, answers: Any) -> None:
    """From the lease to what ranks of this node are sent."""
    found: dict[str, float] = {}
    with growth(found):
        groups = lease.rows.groups()
        rewards = [group.total_rewards for group in groups if group.total_rewards is not None]
        examples = examples_of(groups, rewards, group_advantages(rewards), mask_truncated=False)
        rollout_metrics(groups)
        sent = pickle.dumps(by_place(examples), protocol=5)
    answers.put((found, len(sent), len(examples)))


def in_a_process(work: Any, given: Any) -> Any:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=work, args=(given, answers))
    process.start()
    answer = answers.get(timeout=HANGS_S)
    process.join()
    return answer


def test_neither_the_log_nor_the_loop_holds_a_step_of_two_gib(tmp_path: Path) -> None:
    of_log, lease = in_a_process(log_a_step, tmp_path)
    of_loop, sent_bytes, num_examples = in_a_process(make_examples, lease)
    for role, found in {"log": of_log, "loop": of_loop}.items():
        print(f"{role}: " + ", ".join(f"{kind} {value:.0f} MiB" for kind, value in found.items()))
    print(f"ranks are sent {sent_bytes} bytes")
    assert num_examples == NUM_GROUPS * NUM_ANSWERS
    assert max(of_log["all"], of_loop["all"]) <= MOST_MIB
    assert sent_bytes < 1 << 20
