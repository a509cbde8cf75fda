"""Rollout tokens/s through the whole actor path against raw vLLM in one process, on the same prompts.

Given nothing (it makes a tiny model); prints both rates and their ratio over interleaved pairs of runs, and exits 1
below the goal of 0.9. Both engines are bound to the same core and have the same settings; both give text and the log-
prob of each sampled token.

    .venv/bin/python benchmarks/rollout_throughput.py
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

GOAL = 0.9
NUM_PROMPTS, NUM_COMPLETIONS, MAX_TOKENS, NUM_PAIRS = 64, 8, 32, 8
MAX_MODEL_LEN, MAX_NUM_SEQS, KV_CACHE_GIB = 128, 256, 0.5


def raw_vllm(model: str, token_ids: list[list[int]], cores: str, pipe: Connection) -> None:
    """In a process of its own: generate whenever asked; answer with (tokens, seconds)."""
    from raylign.rollout.engine_process import set_environment

    set_environment(model, cores)
    from vllm import LLM, SamplingParams

    engine = LLM(
        model=model,
        dtype="float32",
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=MAX_NUM_SEQS,
        kv_cache_memory_bytes=int(KV_CACHE_GIB * 2**30),
        enforce_eager=True,
        logprobs_mode="processed_logprobs",
        disable_log_stats=True,
    )
    sampling = SamplingParams(n=NUM_COMPLETIONS, max_tokens=MAX_TOKENS, temperature=1.0, logprobs=0)
    prompts: Any = [{"prompt_token_ids": ids} for ids in token_ids]
    pipe.send("ready")
    while pipe.recv() == "run":
        start = time.perf_counter()
        outputs = engine.generate(prompts, sampling, use_tqdm=False)
        seconds = time.perf_counter() - start
        pipe.send((sum(len(c.token_ids) for output in outputs for c in output.outputs), seconds))


async def main() -> int:
    """Start both sides, run them in turn, print the table."""
    from raylign.actors.cluster import ClusterConfig, ray_cluster
    from raylign.jobs.init_model import InitModelConfig, init_model
    from raylign.jobs.roles import start_pool
    from raylign.rewards.rules import NumericConfig
    from raylign.rollout.engine import EngineConfig
    from raylign.rollout.engine_process import usable_cores
    from raylign.rollout.model_folder import load_tokenizer
    from raylign.rollout.prompts import DataConfig, PromptSource
    from raylign.rollout.sampling import SamplingConfig

    data = DataConfig(source="reasoning_gym:chain_sum", num_generated=500)
    model = init_model(InitModelConfig(output=Path(tempfile.mkdtemp()) / "model", data=data))
    source = PromptSource.open(data, load_tokenizer(model), 0, MAX_MODEL_LEN - MAX_TOKENS)
    prompts = source.take(0, NUM_PROMPTS)
    sampling = SamplingConfig(num_completions=NUM_COMPLETIONS, max_tokens=MAX_TOKENS)
    cores = usable_cores()

    here, there = multiprocessing.get_context("spawn").Pipe()
    token_ids = [prompt.token_ids.tolist() for prompt in prompts]
    raw = multiprocessing.get_context("spawn").Process(
        target=raw_vllm, args=(str(model), token_ids, cores, there), daemon=False
    )
    raw.start()
    with ray_cluster(ClusterConfig(address="local")):
        engine = EngineConfig(
            max_model_len=MAX_MODEL_LEN, max_num_seqs=MAX_NUM_SEQS, kv_cache_gib=KV_CACHE_GIB, cpu_cores=cores
        )
        pool = await start_pool(
            str(model),
            engine,
            1,
            [NumericConfig(name="numeric")],
            weight_backend=None,
            weight_version=0,
            seed=0,
            cpus=0.5,
            placement_deadline_s=60,
            answer_deadline_s=300,
        )
        assert here.recv() == "ready"
        ratios = []
        for pair in range(NUM_PAIRS + 1):
            here.send("run")
            raw_tokens, raw_s = here.recv()
            start = time.perf_counter()
            groups = await pool.collect_all(prompts, sampling)
            actor_rate = sum(group.num_tokens for group in groups) / (time.perf_counter() - start)
            if pair == 0:  # warm-up
                continue
            ratios.append(actor_rate * raw_s / raw_tokens)
            print(
                f"raw vLLM {raw_tokens / raw_s:8,.0f} tokens/s   actor path {actor_rate:8,.0f}   ratio {ratios[-1]:.3f}"
            )
        await pool.stop()
    here.send("stop")
    raw.join(30)
    median = statistics.median(ratios)
    print(f"ratio: median {median:.3f}, from {min(ratios):.3f} to {max(ratios):.3f}; goal {GOAL}")
    return 0 if median >= GOAL else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
