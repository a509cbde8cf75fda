"""Checks of a job that draws answers, before anything starts: model, context, data, rewards, engines, folder.

Given the parts of its config; gives the same findings as for an evaluation, which does the same with fewer answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from raylign.actors.cluster import ClusterConfig
from raylign.jobs.checks.findings import Findings
from raylign.jobs.checks.machine import Machine
from raylign.jobs.checks.plan import examine_evaluation
from raylign.jobs.config.evaluate import EvaluateConfig, GreedySamplingConfig
from raylign.rewards.registry import AnyRewardConfig
from raylign.rollout.data.config import DataConfig
from raylign.rollout.engine.config import EngineConfig
from raylign.rollout.sampling import SamplingConfig


def examine_drawing(
    model: str,
    data: DataConfig,
    sampling: SamplingConfig,
    rewards: Sequence[AnyRewardConfig],
    seed: int,
    engine: EngineConfig,
    num_engines: int,
    cluster: ClusterConfig,
    folder: Path,
    machine: Machine,
) -> Findings:
    """All that can be known without starting anything. That the folder is free is for the job itself to say."""
    evaluation = EvaluateConfig.model_construct(
        # of a folder below only the place is looked at
        folder=folder / "draws",
        model=model,
        data=data,
        sampling=GreedySamplingConfig.model_construct(**sampling.model_dump()),
        rewards=list(rewards),
        seed=seed,
        engine=engine,
        num_engines=num_engines,
        cluster=cluster,
    )
    return examine_evaluation(evaluation, machine)
