"""Control plane: trajectories/s through feeder, workers, reward server, experience log and step batches, with scripted
engines, 8 and 64 of them.

Given nothing; every part but model and learner is the real one, and every group is scored, logged and leased. A
trajectory is one completion with its log-probs, versions and rewards.

    .venv/bin/python -m benchmarks.control_plane
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measurement import Measurement, show
from benchmarks.scripted import ScriptedPool

NUM_COMPLETIONS, ANSWER_TOKENS = 8, 64
GROUPS_PER_ENGINE, FIXED_GROUPS = 32, 256
"""Of a step: as many for each engine, or as many in all, however many engines share them."""
MAX_STALENESS = 2
DATA = {
    "source": "reasoning_gym:chain_sum",
    "num_generated": 500,
    "prompt": "{metadata.expression} =",
    "template": "{prompt}",
}


def measure(num_rounds: int = 3, num_steps: int = 12, num_hosts: int = 2) -> list[dict[str, Any]]:
    """Rates with 8 and 64 engines, in turn; a step grows with the engines, or does not."""
    cases = [(8, FIXED_GROUPS), (64, 64 * GROUPS_PER_ENGINE), (64, FIXED_GROUPS)]
    rates = asyncio.run(_rates(cases, num_rounds, num_steps, num_hosts))
    few, many, thin = (rates[case] for case in cases)
    about = [
        f"groups of {NUM_COMPLETIONS} completions of {ANSWER_TOKENS} tokens; {num_hosts} processes host the engines"
    ]

    def against_few(rates: list[float], name: str, goal: str, note: str) -> dict[str, Any]:
        ratios = [b / a for a, b in zip(few, rates, strict=True)]
        return Measurement(
            name,
            "trajectories/s",
            statistics.median(rates),
            other=statistics.median(few),
            other_name="8 engines",
            ratio=statistics.median(ratios),
            spread=(min(ratios), max(ratios)),
            goal=goal,
            notes=[note],
        ).row()

    return [
        Measurement(
            "control plane, 64 engines",
            "trajectories/s",
            statistics.median(many),
            spread=(min(many), max(many)),
            goal=">= 5000",
            notes=about,
        ).row(),
        against_few(
            many, "control plane, 64 engines against 8", ">= 0.9", f"{GROUPS_PER_ENGINE} groups an engine a step"
        ),
        against_few(
            thin,
            "control plane, 64 engines that share the step of 8",
            "",
            f"{FIXED_GROUPS} groups a step in all: 4 for each of 64 engines, so calls carry an eighth as much",
        ),
    ]


async def _rates(
    cases: list[tuple[int, int]], num_rounds: int, num_steps: int, num_hosts: int
) -> dict[tuple[int, int], list[float]]:
    from raylign.actors.cluster import ClusterConfig, ray_cluster

    rates: dict[tuple[int, int], list[float]] = {case: [] for case in cases}
    with ray_cluster(ClusterConfig(address="local")):
        for turn in range(num_rounds):
            for case in cases if turn % 2 == 0 else cases[::-1]:
                rates[case].append(await _rate(*case, num_steps, num_hosts))
    return rates


async def _rate(num_engines: int, groups_per_step: int, num_steps: int, num_hosts: int) -> float:
    """Trajectories/s over the steps after the first two, which fill the pipe."""
    from raylign.jobs.config.train import TrainConfig
    from raylign.jobs.curricula.registry import open_curriculum
    from raylign.jobs.init_model import InitModelConfig, init_model
    from raylign.jobs.run.experience_flow import LiveFlow
    from raylign.rollout.data.config import DataConfig
    from raylign.rollout.model_folder import load_tokenizer

    num_warm_up = 2
    with tempfile.TemporaryDirectory() as folder:
        model = init_model(
            InitModelConfig(output=Path(folder) / "model", data=DataConfig(**DATA), width=64, num_heads=2)
        )
        config = TrainConfig.model_validate(
            {
                "folder": folder,
                "num_steps": num_steps + num_warm_up,
                "data": DATA,
                "model": {"path": str(model)},
                "sampling": {"num_completions": NUM_COMPLETIONS, "max_tokens": ANSWER_TOKENS},
                "rollout": {"prompts_per_step": groups_per_step},
                "rewards": [{"name": "numeric"}],
                "async": {"max_staleness": MAX_STALENESS},
            }
        )
        curriculum = open_curriculum(config, load_tokenizer(str(model)))
        scripted = ScriptedPool(num_engines, num_hosts, ANSWER_TOKENS)
        pool = await scripted.open(config.rewards)
        flow = await LiveFlow.start(
            config,
            pool,
            curriculum,
            Path(folder) / "experience",
            step=0,
            position=None,
            takes_turns=False,
        )
        try:
            start = time.perf_counter()
            num_trajectories = 0
            for step in range(num_steps + num_warm_up):
                if step == num_warm_up:
                    start, num_trajectories = time.perf_counter(), 0
                batch = await flow.batches.next(step)
                num_trajectories += sum(len(group.completions) for group in batch.groups)
                await asyncio.gather(*(handle.commit_weights.remote(step + 1, False) for handle in scripted.handles))
                pool.fleet.weights_published(step + 1)
                await flow.trained(batch)
            return num_trajectories / (time.perf_counter() - start)
        finally:
            await flow.stop()
            await pool.stop()


def main() -> None:
    show(measure())


if __name__ == "__main__":
    main()
