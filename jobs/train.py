"""The train loop: what a run does, step by step.

Given a `TrainConfig`; gives a run folder with metrics, samples, checkpoints and a report.

              ┌────────────────────── prompts (a pure function of seed and ordinal)
              ▼
    ┌─ rollout workers ─┐  groups   ┌─ reward server ─┐  scored groups   ┌─ algorithm ─┐  examples
    │  vLLM engines     │ ────────▶ │  rules, models  │ ───────────────▶ │  advantages │ ──────────┐
    └───────────────────┘           └─────────────────┘                  └─────────────┘           ▼
              ▲                                                                          ┌─ learner ranks ─┐
              └───────────── weights, as a checked transaction: version = step ──────────│  DeepSpeed      │
                                                                                         └─────────────────┘
    who                 waits for                               is unblocked by
    the loop            all groups of the step                  each `take` of a worker, each answer of the rewards
    rollout workers     new prompts                             `submit`, once the new weights are committed
    learner ranks       examples                                `update`, once all groups are scored
    everybody           at most the deadline of its verb        the error that names who did not answer

The loop is synchronous (staleness η = 0): rollouts and learner take turns, and every token is on-policy.
"""

from __future__ import annotations

import asyncio
import time

from raylign.actors.cluster import ray_cluster
from raylign.actors.rollout_pool import RolloutError
from raylign.jobs.config import TrainConfig
from raylign.jobs.plan import check_before_start
from raylign.jobs.run import Run


def train(config: TrainConfig) -> Run:
    """Check everything that can be checked, start Ray, train. Ctrl-C ends it as `KeyboardInterrupt`, after saving."""
    check_before_start(config)
    with ray_cluster(config.cluster):
        try:
            run = asyncio.run(train_async(config))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        if run.was_interrupted:
            raise KeyboardInterrupt
    return run


async def train_async(config: TrainConfig) -> Run:
    """The same inside a running Ray."""
    async with Run.open(config) as run:
        try:
            await (learn_from_rollouts(run) if run.algorithm.needs_rollouts else learn_from_demonstrations(run))
        except RolloutError:  # the learner stands between two steps: what it learned is kept
            await run.save_progress()
            raise
        await run.finish()
    return run


async def learn_from_rollouts(run: Run) -> None:
    """Generate, score, learn, publish the weights; again."""
    await run.evaluate()
    for step in run.steps():
        clock = time.perf_counter()
        prompts = run.prompts.take(step * run.prompts_per_step, run.prompts_per_step)
        groups = await run.rollouts.collect_all(prompts, run.sampling, ordered=run.deterministic)
        generated = time.perf_counter()
        examples = run.algorithm.examples(groups)
        update_metrics = await run.learner.update(examples) if examples else {}
        learned = time.perf_counter()
        weight_metrics = await run.publish_weights(version=step + 1)
        published = time.perf_counter()
        times_s = {
            "rollout": generated - clock,
            "reward": run.rollouts.times.reward_s,
            "learner": learned - generated,
            "weights": published - learned,
            "step": published - clock,
        }
        run.record(step + 1, groups, update_metrics | weight_metrics, times_s)
        await run.evaluate_if_due(step + 1)
        await run.checkpoint_if_due(step + 1)


async def learn_from_demonstrations(run: Run) -> None:
    """Supervised steps on the rows' own responses."""
    await run.evaluate()
    for step in run.steps():
        clock = time.perf_counter()
        examples = run.demonstrations(step * run.prompts_per_step, run.prompts_per_step)
        update_metrics = await run.learner.update(examples)
        seconds = time.perf_counter() - clock
        run.record(step + 1, [], update_metrics, times_s={"learner": seconds, "step": seconds})
        await run.evaluate_if_due(step + 1)
        await run.checkpoint_if_due(step + 1)
