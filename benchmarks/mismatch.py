"""Mismatch: how far the learner's log-probs are from the engine's on the same tokens, in float32 and in bfloat16.

Given nothing (it makes the long-tailed workload); mean and largest |Δ log-prob| and effective sample size over the
tokens of 128 completions. Each precision is used on both sides: vLLM's weights and activations, the learner's forward.

    .venv/bin/python -m benchmarks.mismatch
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.long_tail import DATA, MAX_MODEL_LEN, MAX_TOKENS, NUM_COMPLETIONS, PROMPTS_PER_STEP, prepare
from benchmarks.measurement import Measurement, engine_core, show

Precision = Literal["float32", "bfloat16"]


def measure() -> list[dict[str, Any]]:
    """A row for each precision, each in a process of its own: a process has one engine and one process group."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        for precision in ("float32", "bfloat16"):
            command = [sys.executable, "-m", "benchmarks.mismatch", "--one", precision, folder]
            said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            found = json.loads(said.splitlines()[-1])
            rows.append(
                Measurement(
                    f"mismatch, {precision}: mean |Δ log-prob|",
                    "nats",
                    found["mean"],
                    notes=[
                        f"largest {found['max']:.3g}; effective sample size {found['ess']:.6f} of 1; "
                        f"{found['num_tokens']} tokens"
                    ],
                    details=found,
                ).row()
            )
    return rows


async def one(precision: Precision, folder: Path) -> dict[str, float]:
    """Generate, then let the learner judge the same tokens."""
    from raylign.learners.algorithms.policy_gradient.grpo import GrpoConfig
    from raylign.learners.engines.config import LearnerConfig
    from raylign.learners.learner import Learner
    from raylign.rollout.data.config import DataConfig
    from raylign.rollout.data.prompts import PromptSource
    from raylign.rollout.engine.config import EngineConfig
    from raylign.rollout.engine.vllm_engine import VllmEngine
    from raylign.rollout.model_folder import load_tokenizer
    from raylign.rollout.sampling import SamplingConfig

    model = str(folder / "model")
    prompts = PromptSource.open(DataConfig(**DATA), load_tokenizer(model), 0, MAX_MODEL_LEN - MAX_TOKENS)
    engine = VllmEngine(model, EngineConfig(dtype=precision, max_model_len=MAX_MODEL_LEN, cpu_cores=str(engine_core())))
    await engine.start()
    try:
        sampling = SamplingConfig(num_completions=NUM_COMPLETIONS, max_tokens=MAX_TOKENS)
        groups = await asyncio.gather(
            *(engine.generate(prompt, sampling, None) for prompt in prompts.take(0, PROMPTS_PER_STEP))
        )
    finally:
        await engine.stop()
    config = GrpoConfig()
    scored = [
        group.scored({"none": zeros}, zeros, (), 0.0)
        for group in groups
        for zeros in [np.zeros(len(group.completions), np.float32)]
    ]
    examples = config.build_examples().from_groups(scored)
    learner = Learner(LearnerConfig(dtype=precision), model, config.build_objective(), 1.0, 1, 0, folder / "debug")
    differences, log_ratios = [], []
    for example, logps in zip(examples, learner.logprobs(examples), strict=True):
        log_ratio = logps.astype(np.float64) - example.rollout_logps
        differences.append(np.abs(log_ratio))
        log_ratios.append(log_ratio)
    difference, ratio = np.concatenate(differences), np.exp(np.concatenate(log_ratios))
    return {
        "mean": float(difference.mean()),
        "max": float(difference.max()),
        "ess": float(ratio.sum() ** 2 / (len(ratio) * (ratio**2).sum())),
        "num_tokens": len(ratio),
    }


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(asyncio.run(one(sys.argv[2], Path(sys.argv[3])))))
    else:
        show(measure())


if __name__ == "__main__":
    main()
