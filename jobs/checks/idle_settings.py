"""Settings that ask for something which never comes in this run.

Given a config and the number of its steps; gives a line for each, with the key and what to set. They are warnings: a
short trial of a long recipe is right to have some.
"""

from __future__ import annotations

from collections.abc import Iterator

from raylign.jobs.config.train import TrainConfig


def idle_settings(config: TrainConfig, num_steps: int) -> Iterator[str]:
    """Only settings that somebody made: a default that does nothing in a short run is no surprise."""
    yield from config.algorithm.idle_settings(num_steps)
    warmup_steps = config.learner.warmup_steps
    if warmup_steps >= num_steps and warmup_steps:
        yield (
            f"learner.warmup_steps is {warmup_steps} and the run has {num_steps} steps: it never reaches its "
            f"learning rate; set it below {num_steps}"
        )
    evaluation, every = config.evaluation, config.evaluation.every_steps
    measures = [name for name in ("data", "pairs", "trusted") if getattr(evaluation, name) is not None]
    if every and not measures:
        yield f"evaluation.every_steps is {every} and nothing is held out: set evaluation.data, or leave it out"
    elif every > num_steps:
        yield (
            f"evaluation.every_steps is {every} and the run has {num_steps} steps: only its start and its end are "
            "evaluated"
        )
    if evaluation.rewards and evaluation.data is None:
        yield "evaluation.rewards is set and evaluation.data is empty: no prompts are answered, so nothing is measured"
    saves = config.checkpoints.every_steps
    if "every_steps" in config.checkpoints.model_fields_set and saves > num_steps:
        yield f"checkpoints.every_steps is {saves} and the run has {num_steps} steps: it is saved only at its end"
