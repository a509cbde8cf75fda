"""Evaluating a model: accuracy and pass@k with confidence intervals, through the same engines as training.

Given an `EvaluateConfig`; gives metrics, `evaluation.json` and all answers in `samples.jsonl` in the folder.
"""

from __future__ import annotations

import asyncio
import json
import time

from raylign.actors.cluster import ray_cluster
from raylign.jobs.checks.plan import check_before_evaluation
from raylign.jobs.config.evaluate import EvaluateConfig
from raylign.jobs.config.loading import config_yaml
from raylign.jobs.config.references import compare_with_references
from raylign.jobs.run.checkpoints import model_folder
from raylign.jobs.run.folder import write_atomically
from raylign.jobs.run.metrics import evaluation_metrics, is_measured
from raylign.jobs.run.progress import Progress
from raylign.jobs.run.reward_failures import last_failure
from raylign.jobs.run.roles import cpus_for_each_role, start_pool
from raylign.jobs.run.samples import sample_record
from raylign.rollout.data.prompts import PromptSource
from raylign.rollout.model_folder import load_tokenizer
from raylign.rollout.sample import Group

ANSWER_DEADLINE_S = 1800.0


def evaluate(config: EvaluateConfig) -> dict[str, float]:
    """Check, start engines, answer every prompt, score, report."""
    check_before_evaluation(config)
    with ray_cluster(config.cluster):
        return asyncio.run(_evaluate(config))


async def _evaluate(config: EvaluateConfig) -> dict[str, float]:
    model_path = model_folder(config.model)
    room = config.engine.max_model_len - config.sampling.max_tokens
    compares = compare_with_references(config.rewards)
    source = PromptSource.open(config.data, load_tokenizer(model_path), config.seed, room, needs_references=compares)
    prompts = source.take(0, min(config.num_prompts or len(source), len(source)))
    pool = None
    groups: list[Group] = []
    clock = time.perf_counter()
    with Progress(config.name, len(prompts), unit="prompts") as progress:
        try:
            with progress.waiting("starting the engines"):
                pool = await start_pool(
                    model_path,
                    config.engine,
                    config.num_engines,
                    config.rewards,
                    weight_backend=None,
                    weight_version=0,
                    seed=config.seed,
                    cpus=cpus_for_each_role(config.num_engines),
                    cluster=config.cluster,
                    answer_deadline_s=ANSWER_DEADLINE_S,
                )
            async for group in pool.collect(prompts, config.sampling):
                groups.append(group)
                progress.advance(len(groups))
        finally:
            if pool is not None:
                await pool.stop()
    metrics = evaluation_metrics(groups, config.correct_from, config.pass_at)
    metrics["evaluation/seconds"] = time.perf_counter() - clock
    write_results(config, model_path, metrics, groups)
    if not is_measured(groups):
        print(
            f"evaluation/accuracy                  not measured: no score; {last_failure(groups) or 'no completions'}"
        )
    for key, value in metrics.items():
        print(f"{key:36} {value:.4g}")
    print(f"every answer with its rewards: {config.folder / 'samples.jsonl'}")
    return metrics


def write_results(config: EvaluateConfig, model_path: str, metrics: dict[str, float], groups: list[Group]) -> None:
    """`samples.jsonl` in the order of the prompts, `config.yaml`, and last `evaluation.json`, which says it is done."""
    folder = config.folder
    folder.mkdir(parents=True, exist_ok=True)
    in_order = sorted(groups, key=lambda group: group.prompt.ordinal)
    write_atomically(folder / "samples.jsonl", "".join(json.dumps(sample_record(group)) + "\n" for group in in_order))
    write_atomically(folder / "config.yaml", config_yaml(config))
    text = json.dumps({"model": model_path, **metrics}, indent=2)
    write_atomically(folder / "evaluation.json", text + "\n")
