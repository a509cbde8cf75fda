"""KL(new‖reference) from the new model's own answers, with log-probs of both models computed alike.

Given both sides of a comparison of two models; gives the estimate as plain values. The answers are read as the token
ids that were sampled, after the prompt ids that were fed: nothing is tokenised again.

Waits for one Ray task for each model, which loads it and ends; a deadline unblocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from raylign.jobs.compare.sides import Side
from raylign.jobs.run.roles import cpus_for_each_role, num_cluster_gpus
from raylign.learners.meters.kl_from_samples import kl_from_samples
from raylign.learners.model.model_logps import answer_logps
from raylign.rollout.sample import FloatArray, IntArray


def kl_of_sides(sides: Mapping[str, Side], temperature: float, deadline_s: float) -> dict[str, Any]:
    """Mean and standard error in nats per answer, at the temperature of sampling."""
    new, reference = sides["new"], sides["reference"]
    places = list(new.answer_ids)
    if not places:
        raise ValueError(f"{new.label} gave no answer, so there is no KL to estimate from")
    if differing := [
        place for place in places if not np.array_equal(new.prompt_ids[place], reference.prompt_ids[place])
    ]:
        raise ValueError(
            f"kl: prompt {differing[0]} is not the same tokens for {new.label} and {reference.label}: they have "
            "different tokenizers or chat templates, and KL between them has no meaning; set kl: false"
        )
    prompts = [new.prompt_ids[place] for place in places]
    answers = [new.answer_ids[place] for place in places]
    logps, reference_logps = (_logps_of(side, prompts, answers, temperature, deadline_s) for side in (new, reference))
    found = kl_from_samples(logps, reference_logps)
    error = found.standard_error
    return {
        "mean": found.mean,
        "standard_error": error if math.isfinite(error) else None,
        "num_answers": len(places),
        "temperature": temperature,
    }


def _logps_of(
    side: Side, prompts: list[IntArray], answers: list[IntArray], temperature: float, deadline_s: float
) -> list[FloatArray]:
    import ray
    from ray.exceptions import GetTimeoutError

    task: Any = ray.remote(answer_logps).options(
        num_cpus=cpus_for_each_role(1), num_gpus=1 if num_cluster_gpus() else 0, max_retries=0
    )
    pending = task.remote(side.model_path, prompts, answers, temperature)
    try:
        found: list[FloatArray] = ray.get(pending, timeout=deadline_s)
    except GetTimeoutError:
        ray.cancel(pending, force=True)
        raise RuntimeError(
            f"log-probs of {len(answers)} answers under {side.label} took longer than {deadline_s:.0f} s "
            "(answer_deadline_s)"
        ) from None
    return found
