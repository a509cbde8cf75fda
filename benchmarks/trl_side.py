"""GRPO by `trl` on the long-tailed workload: the other side of `trl_comparison.py`, with packages of its own.

Given a workload folder, a variant and a number of steps; prints one JSON line with the seconds, samples and tokens of
each step. Imports nothing of ours.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

VARIANTS: dict[str, dict[str, Any]] = {
    "whole batch": {"per_device_train_batch_size": 128, "gradient_accumulation_steps": 1},
    "eight passes of 16": {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 8},
    "whole batch, bfloat16": {"per_device_train_batch_size": 128, "gradient_accumulation_steps": 1, "bf16": True},
    "continuous batching": {
        "per_device_train_batch_size": 128,
        "gradient_accumulation_steps": 1,
        "use_transformers_continuous_batching": True,
        # room for all 128 completions at once: nothing is ever put off
        "transformers_continuous_batching_config": {"page_size": 32, "num_blocks": 2200, "max_batch_tokens": 2048},
    },
    "continuous batching, eight passes of 16": {
        "per_device_train_batch_size": 16,
        "gradient_accumulation_steps": 8,
        "use_transformers_continuous_batching": True,
        "transformers_continuous_batching_config": {"page_size": 32, "num_blocks": 2200, "max_batch_tokens": 2048},
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", type=Path, required=True)
    parser.add_argument("--variant", choices=list(VARIANTS), required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--free-tokens", type=int, required=True)
    parser.add_argument("--max-tokens", type=int, required=True)
    arguments = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "WANDB_DISABLED": "true"}

    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    prompts = [json.loads(line) for line in (arguments.workload / "prompts.jsonl").open(newline="\n")]
    steps: list[dict[str, float]] = []
    lengths: list[int] = []

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        lengths.extend(map(len, completion_ids))
        room = arguments.max_tokens - arguments.free_tokens
        return [-min(1.0, max(0.0, (len(ids) - arguments.free_tokens) / room)) for ids in completion_ids]

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            now = time.perf_counter()
            steps.append({"seconds": now - self.last, "samples": len(lengths), "tokens": sum(lengths)})
            self.last = now
            lengths.clear()

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.last = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            max_steps=arguments.steps,
            num_generations=8,
            max_completion_length=arguments.max_tokens,
            temperature=1.0,
            beta=0.0,
            learning_rate=1e-7,
            lr_scheduler_type="constant",
            use_cpu=True,
            use_vllm=False,
            gradient_checkpointing=False,
            logging_steps=1000,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            optim="adamw_torch_fused",
            seed=0,
            **{"bf16": False, **VARIANTS[arguments.variant]},
        )
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(arguments.workload / "model", dtype=torch.float32),
            processing_class=AutoTokenizer.from_pretrained(arguments.workload / "model"),
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": prompts}),
            callbacks=[Clock()],
        )
        trainer.train()
    versions = {name: version(name) for name in ("trl", "transformers", "torch")}
    print("RESULT " + json.dumps({"steps": steps, "versions": versions}), flush=True)
    sys.stdout.flush()
    os._exit(0)  # continuous batching leaves a thread behind


if __name__ == "__main__":
    main()
