"""Log-probs of given answers are those of transformers, whatever their lengths and order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_of_answers_are_those_of_transformers(tiny_model: Path, temperature: float) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from raylign.learners.model.model_logps import answer_logps

    rng = np.random.default_rng(4)
    prompts = [rng.integers(0, 97, rng.integers(1, 9)).astype(np.int32) for _ in range(9)]
    answers = [rng.integers(0, 97, rng.integers(1, 20)).astype(np.int32) for _ in range(9)]
    found = answer_logps(str(tiny_model), prompts, answers, temperature)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    for prompt, answer, logps in zip(prompts, answers, found, strict=True):
        ids = torch.from_numpy(np.concatenate([prompt, answer]).astype(np.int64))
        with torch.no_grad():
            all_logps = torch.log_softmax(model(ids[None]).logits[0] / temperature, -1)
        expected = [float(all_logps[len(prompt) - 1 + t, token]) for t, token in enumerate(answer)]
        assert logps == pytest.approx(expected, abs=2e-6)
