"""Log-probs of given answers under a model, outside of any training.

Given a model, prompts and answers as token ids; gives (T,) log-probs of each answer's tokens, computed as the learner
computes them, by a frozen copy on this process's device.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raylign.learners.engines.config import LearnerConfig
from raylign.rollout.sample import FloatArray, IntArray


def answer_logps(
    model_path: str, prompts: Sequence[IntArray], answers: Sequence[IntArray], temperature: float = 1.0
) -> list[FloatArray]:
    """`temperature`: the one that the answers were sampled at."""
    import torch

    from raylign.learners.engines.build import shard_frozen
    from raylign.learners.engines.config import resolve_micro_batch_tokens
    from raylign.learners.engines.distributed import local_device
    from raylign.learners.examples.example import Example
    from raylign.learners.examples.micro_batch import micro_batches
    from raylign.learners.model.policy_model import load_reference, resolve_layout

    config = LearnerConfig()
    layout, device = resolve_layout(config, model_path), local_device()
    model = shard_frozen(load_reference(model_path, config, temperature, layout), config)
    examples = [
        Example(prompt, answer, loss_mask=np.ones(len(answer), np.float32))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    found: dict[int, FloatArray] = {}
    with torch.no_grad():
        for batch in micro_batches(examples, resolve_micro_batch_tokens(config, device.type == "cuda"), layout):
            logps_N = model.logps_of(batch.to(device))[0].float().cpu().numpy()
            lengths = [len(answers[index]) for index in batch.example_indices]
            found |= zip(batch.example_indices, np.split(logps_N, np.cumsum(lengths)[:-1]), strict=True)
    return [found[index] for index in range(len(answers))]
