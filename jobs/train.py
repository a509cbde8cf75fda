"""The train loop: what a run does, step by step.

Given a `TrainConfig`; gives a run folder with metrics, experience, samples, checkpoints and a report.

              ┌────────────────────── prompts (a pure function of seed and ordinal)
              ▼
    ┌─ rollout workers ─┐  groups   ┌─ reward server ─┐  scored groups   ┌─ experience log ─┐
    │  vLLM engines     │ ────────▶ │  rules, models  │ ───────────────▶ │  in the folder   │
    └───────────────────┘           └─────────────────┘                  └──────────────────┘
              ▲                                                                    │ batches: `batches.next`
              │                                                          ┌─ learner ranks ─┐
              └───────────── weights, as a checked transaction ───────── │  DeepSpeed      │ ◀── examples (curriculum)
                             version = steps trained                     └─────────────────┘
    who                 waits for                               is unblocked by
    the loop            the groups of the step                  the log, as groups are finished and scored
    rollout workers     prompts                                 the feeder: a new version, or a step trained
    the feeder          room inside the staleness bound η       the same (actors/feeder.py)
    learner ranks       examples                                `update`, once the groups of the step are there
    engines             the end of a weight update              the transaction, or its deadline
    everybody           at most the deadline of its verb        the error that names who did not answer

All of it runs at once: engines may be `async.max_staleness` = η versions ahead of what the learner trains, and long
answers go on across weight updates. At η = 0 rollouts and learner take turns, and every token is on-policy.
"""

from __future__ import annotations

import asyncio

from raylign.actors.cluster import ray_cluster
from raylign.jobs.checks.plan import check_before_start
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.run.recovery import recovering
from raylign.jobs.run.run import Run


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
    """The same inside a running Ray; a learner that is lost costs the steps since the last checkpoint."""
    async with recovering(config) as recovery:
        while recovery.done is None:
            async with recovery.attempt() as run:
                await (learn_from_rollouts(run) if config.algorithm.needs_rollouts else learn_from_rows(run))
                await run.finish()
    return recovery.done


async def learn_from_rollouts(run: Run) -> None:
    """Train on what the engines generate meanwhile; send them the new weights; again."""
    await run.evaluate_at_start()
    async with run.experience_flowing() as batches:
        for step in run.steps():
            batch = await batches.next(step)
            update_metrics = await run.update(batch.examples, version=step)
            weight_metrics = await run.publish_weights(version=step + 1)
            await run.record_step(batch, update_metrics | weight_metrics)
            await run.evaluate_if_due(step + 1)
            await run.checkpoint_if_due(step + 1)


async def learn_from_rows(run: Run) -> None:
    """Steps on the rows' own answers: demonstrations, preference pairs, or rows that a selector weighs; engines may
    answer some of them meanwhile."""
    await run.evaluate_at_start()
    for step in run.steps():
        examples, row_metrics = await run.rows(step)
        update_metrics = await run.update(examples, version=None)
        await run.record_step(None, row_metrics | update_metrics)
        await run.evaluate_if_due(step + 1)
        await run.checkpoint_if_due(step + 1)
