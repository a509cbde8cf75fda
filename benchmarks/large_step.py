"""Steps of 2 GB of responses (tokens, log-probs, text): memory of the driver and of the log's process, by the kernel's
account, while the real loop, log, feeder, rewards and learner group work on them; engines are scripted.

Given nothing; the most that either held in large steps beyond what it held after a small one, against
`experience.max_unread_mib` + 200 MiB. All but one answer of a group are cut at the limit, and `mask_truncated` leaves
them out of the loss: they travel as any answer does, and the tiny model need not be trained on 170 million tokens.

    .venv/bin/python -m benchmarks.large_step
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.measurement import Measurement, show
from benchmarks.memory import DATA
from benchmarks.scripted import ScriptedEngine, ScriptedPool, smallest_model
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.run.opening import open_run
from raylign.jobs.run.parts import RunParts
from raylign.jobs.run.run import Run
from raylign.jobs.train import learn_from_rollouts
from raylign.rollout.sample import Completion, Group, Prompt, VersionSpan
from raylign.rollout.sampling import SamplingConfig

NUM_ENGINES, NUM_GROUPS, NUM_COMPLETIONS, SHORT_TOKENS = 4, 64, 8, 16
BYTES_PER_TOKEN, CHARACTERS_PER_TOKEN = 12, 4
"""Token, log-prob and text."""
APART_S = 0.1
"""Between two groups: nothing that decodes ends 64 at once."""
LOOK_EVERY_S = 0.02
MIB = 2**20
ROLES = {"driver": "", "log": "ray::ExperienceHost"}


class LongAnswers(ScriptedEngine):
    """From the second step on all answers of a group but one are long, and cut."""

    def __init__(self, answer_tokens: int, group_s: float) -> None:
        super().__init__(SHORT_TOKENS, group_s)
        random = np.random.default_rng(1)
        self._long = [
            (
                random.integers(3, 250, answer_tokens).astype(np.int32),
                -random.exponential(1.0, answer_tokens).astype(np.float32),
                "word" * (answer_tokens * CHARACTERS_PER_TOKEN // 4),
            )
            for _ in range(4)
        ]

    async def generate(self, prompt: Prompt, sampling: SamplingConfig, seed: int | None) -> Group:
        group = await super().generate(prompt, sampling, seed)
        if prompt.ordinal < NUM_GROUPS:
            return group
        await asyncio.sleep(prompt.ordinal % NUM_GROUPS * APART_S)
        completions = [group.completions[0]]
        for number in range(1, sampling.num_completions):
            tokens, logps, text = self._long[(prompt.ordinal + number) % len(self._long)]
            spans = (VersionSpan(self.version, 0, len(tokens)),)
            completions.append(Completion(tokens, logps, spans, "length", text))
        return Group(prompt, tuple(completions), timings_s=group.timings_s)


class LargeParts(RunParts):
    """Engines that follow that script."""

    async def _start_engines(self, *_: Any) -> None:
        tokens = self._config.sampling.max_tokens
        pool = await ScriptedPool(NUM_ENGINES, 1, tokens, engine=LongAnswers).open(self._config.rewards)
        self.rollouts = self.evaluation_pool = pool
        self._started.push_async_callback(self.rollouts.stop)
        self._publish_from(0, None)


class WatchedRun(Run):
    """A run that says when its small step is over."""

    small_step_over = threading.Event()

    async def record_step(self, *arguments: Any, **more: Any) -> None:
        await super().record_step(*arguments, **more)
        print(f"step {self.step} after {time.perf_counter():.0f} s", flush=True)
        self.small_step_over.set()


class Memory:
    """Of both roles, looked at from a thread of its own: MiB by kind, before and at most."""

    def __init__(self) -> None:
        self.before: dict[str, dict[str, float]] = {}
        self.most: dict[str, dict[str, float]] = {role: {} for role in ROLES}
        self._is_over = threading.Event()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Until the end of the block."""
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            thread.join()

    def _watch(self) -> None:
        found = {"driver": psutil.Process().pid}
        while not self._is_over.wait(LOOK_EVERY_S):
            if "log" not in found:
                if pids := pids_titled(ROLES["log"]):
                    found["log"] = pids[0]
                continue
            try:
                held = {role: memory_of(pid) for role, pid in found.items()}
            except (KeyError, OSError):  # the log's process has ended
                return
            if not WatchedRun.small_step_over.is_set():
                self.before = held
                continue
            for role, kinds in held.items():
                most = self.most[role]
                for kind, value in kinds.items():
                    most[kind] = max(most.get(kind, 0.0), value - self.before[role][kind])


def pids_titled(title: str) -> list[int]:
    """Of processes below this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if (process.cmdline() or [""])[0].startswith(title):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def memory_of(pid: int) -> dict[str, float]:
    """MiB: all that the kernel counts as resident; its own; pages of mapped files; pages of shared memory."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    names = {"all": "VmRSS", "its own": "RssAnon", "of files": "RssFile", "shared": "RssShmem"}
    return {kind: int(lines[name].split()[0]) / 1024 for kind, name in names.items()}


def measure(num_bytes: int = 2 << 30, num_large_steps: int = 2, max_unread_mib: float = 1024) -> list[dict[str, Any]]:
    """A row for each role."""
    memory = Memory()
    num_tokens = num_bytes // (NUM_GROUPS * (NUM_COMPLETIONS - 1) * BYTES_PER_TOKEN)
    with tempfile.TemporaryDirectory() as folder, memory.watched():
        asyncio.run(_train(Path(folder), num_tokens, num_large_steps, max_unread_mib))
    rows = []
    for role, most in memory.most.items():
        parts = ", ".join(f"{kind} {value:.0f}" for kind, value in most.items() if kind != "all")
        rows.append(
            Measurement(
                f"{num_bytes / 2**30:.3g} GiB of responses a step, RSS of the {role}",
                "MiB",
                most["all"],
                other=max_unread_mib,
                other_name="max_unread_mib",
                goal=f"<= {max_unread_mib + 200:.0f}",
                notes=[
                    f"beyond {memory.before[role]['all']:.0f} MiB after a small step; the most of each kind: {parts}",
                    f"{num_large_steps} steps of {NUM_GROUPS} x {NUM_COMPLETIONS - 1} answers of {num_tokens} tokens",
                ],
                details={"most": most, "before": memory.before[role]},
            ).row()
        )
    return rows


async def _train(folder: Path, num_tokens: int, num_large_steps: int, max_unread_mib: float) -> None:
    from raylign.actors.cluster import ray_cluster

    model = smallest_model(folder / "model", DATA)
    config = TrainConfig.model_validate(
        {
            "folder": str(folder / "run"),
            "num_steps": 1 + num_large_steps,
            "data": DATA,
            "model": {"path": str(model)},
            "algorithm": {"name": "grpo", "mask_truncated": True},
            "sampling": {"num_completions": NUM_COMPLETIONS, "max_tokens": num_tokens},
            "rollout": {"prompts_per_step": NUM_GROUPS, "engine": {"max_model_len": num_tokens + 512}},
            "rewards": [{"name": "numeric"}],
            "experience": {"max_unread_mib": max_unread_mib},
            "learner": {"threads_per_rank": 1, "learning_rate": 1e-6},
            "checkpoints": {"every_steps": 0},
        }
    )
    with ray_cluster(config.cluster):
        async with open_run(config, WatchedRun, LargeParts(config)) as run:
            await learn_from_rollouts(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=2048, help="of responses a step")
    parser.add_argument("--steps", type=int, default=2, help="of that size, after a small one")
    parser.add_argument("--max_unread_mib", type=float, default=1024, help="as experience.max_unread_mib")
    arguments = parser.parse_args()
    show(measure(arguments.mib * MIB, arguments.steps, arguments.max_unread_mib))


if __name__ == "__main__":
    main()
