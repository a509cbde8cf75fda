"""Resident memory of every role over 2,000 steps: the real loop, log, rewards, learner group and weight updates, with
scripted engines and a model of a few thousand parameters.

Given nothing; each role's memory at the end against its memory after a tenth of the steps, which is when caches and
thread pools have filled. The row is the role that grew most.

    .venv/bin/python -m benchmarks.memory
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measurement import Measurement, show
from benchmarks.scripted import ScriptedPool, smallest_model
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.run.opening import open_run
from raylign.jobs.run.parts import RunParts
from raylign.jobs.run.run import Run
from raylign.jobs.train import learn_from_rollouts

NUM_STEPS, NUM_LOOKS, NUM_ENGINES, ANSWER_TOKENS = 2000, 100, 8, 16
DATA = {
    "source": "reasoning_gym:chain_sum",
    "num_generated": 500,
    "prompt": "{metadata.expression} =",
    "template": "{prompt}",
}


class ScriptedParts(RunParts):
    """Engines that follow a script."""

    async def _start_engines(self, *_: Any) -> None:
        self.rollouts = self.evaluation_pool = await ScriptedPool(NUM_ENGINES, 1, ANSWER_TOKENS).open(
            self._config.rewards
        )
        self._started.push_async_callback(self.rollouts.stop)
        self._publish_from(0, None)


class ScriptedRun(Run):
    """A run whose engines are scripted, and whose memory is looked at as it goes."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.looks: list[dict[str, float]] = []

    async def record_step(self, *arguments: Any, **more: Any) -> None:
        await super().record_step(*arguments, **more)
        if self.step % max(1, self.config.num_steps // NUM_LOOKS) == 0:
            self.looks.append(memory_of_roles())


def memory_of_roles() -> dict[str, float]:
    """MiB held by this process and by each actor below it, by its title."""
    held = {"loop": psutil.Process().memory_info().rss / 2**20}
    for process in psutil.Process().children(recursive=True):
        try:
            title = (process.cmdline() or [""])[0]
            if title.startswith("ray::") and "IDLE" not in title:
                # the title names what the actor does right now: its class is what stays
                name = title.removeprefix("ray::").split(".")[0].split("(")[0].strip()
                # shared pages (weights on their way, Ray's objects) come and go with their owner
                memory = process.memory_info()
                held[f"{name} {process.pid}"] = (memory.rss - memory.shared) / 2**20
        except psutil.Error:
            continue
    return held


def measure(num_steps: int = NUM_STEPS) -> list[dict[str, Any]]:
    """The growth of each role; the worst is the row."""
    with tempfile.TemporaryDirectory() as folder:
        looks = asyncio.run(_looks(Path(folder), num_steps))
    first, last = len(looks) // 10, max(1, len(looks) // 10)
    growth, notes = {}, []
    for role in sorted(set.intersection(*(set(look) for look in looks[first:]))):
        held = [look[role] for look in looks[first:]]
        before, after = statistics.median(held[:last]), statistics.median(held[-last:])
        growth[role] = after / before - 1
        notes.append(
            f"{role.split()[0]}: {before:.0f} MiB after a tenth, {after:.0f} MiB at the end, most {max(held):.0f}"
        )
    worst = max(growth, key=lambda role: abs(growth[role]))
    return [
        Measurement(
            f"memory over {num_steps} steps, role that changed most",
            "share",
            abs(growth[worst]),
            goal="<= 0.05",
            notes=notes,
            details={"growth": growth},
        ).row()
    ]


async def _looks(folder: Path, num_steps: int) -> list[dict[str, float]]:
    from raylign.actors.cluster import ray_cluster

    model = smallest_model(folder / "model", DATA)
    config = TrainConfig.model_validate(
        {
            "folder": str(folder / "run"),
            "num_steps": num_steps,
            "data": DATA,
            "model": {"path": str(model)},
            "sampling": {"num_completions": 4, "max_tokens": ANSWER_TOKENS},
            "rollout": {"prompts_per_step": 4},
            "rewards": [{"name": "numeric"}],
            "learner": {"threads_per_rank": 1, "learning_rate": 1e-6},
            "checkpoints": {"every_steps": 0},
        }
    )
    with ray_cluster(config.cluster):
        async with open_run(config, ScriptedRun, ScriptedParts(config)) as run:
            await learn_from_rollouts(run)
            assert isinstance(run, ScriptedRun)
            return run.looks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=NUM_STEPS)
    show(measure(parser.parse_args().steps))


if __name__ == "__main__":
    main()
