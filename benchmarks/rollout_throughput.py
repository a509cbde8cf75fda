"""Rollout tokens/s through the whole actor path against raw vLLM in one process, on the same prompts.

Given nothing (it makes the long-tailed workload); both rates and their ratio over interleaved pairs. Both engines
are bound to the same core and have the same settings; both give text and the log-prob of each sampled token. The actor
path: pool, worker, engine, rewards, and back.

    .venv/bin/python -m benchmarks.rollout_throughput
"""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from benchmarks.long_tail import DATA, MAX_MODEL_LEN, MAX_TOKENS, NUM_COMPLETIONS, prepare
from benchmarks.measurement import compare, engine_core, show

NUM_PROMPTS, MAX_NUM_SEQS, KV_CACHE_GIB = 48, 256, 0.5


def raw_vllm(model: str, token_ids: list[list[int]], cores: str, pipe: Connection) -> None:
    """In a process of its own: generate whenever asked; answer with (tokens, seconds)."""
    from raylign.rollout.engine.process import set_environment

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


def measure(num_pairs: int = 8) -> dict[str, Any]:
    """One row."""
    return asyncio.run(_pairs(num_pairs))


async def _pairs(num_pairs: int) -> dict[str, Any]:
    """Start both sides, run them in turn."""
    from raylign.actors.cluster import ClusterConfig, ray_cluster
    from raylign.jobs.run.roles import start_pool
    from raylign.rewards.rules import NumericConfig
    from raylign.rollout.data.config import DataConfig
    from raylign.rollout.data.prompts import PromptSource
    from raylign.rollout.engine.config import EngineConfig
    from raylign.rollout.model_folder import load_tokenizer
    from raylign.rollout.sampling import SamplingConfig

    model = prepare(Path(tempfile.mkdtemp())).model
    source = PromptSource.open(DataConfig(**DATA), load_tokenizer(str(model)), 0, MAX_MODEL_LEN - MAX_TOKENS)
    prompts = source.take(0, NUM_PROMPTS)
    sampling = SamplingConfig(num_completions=NUM_COMPLETIONS, max_tokens=MAX_TOKENS)
    cores = str(engine_core())

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
            cluster=ClusterConfig(),
            answer_deadline_s=300,
        )
        assert here.recv() == "ready"
        raw_rates, actor_rates = [], []
        for pair in range(-1, num_pairs):  # the first pair warms up
            here.send("run")
            raw_tokens, raw_s = here.recv()
            start = time.perf_counter()
            groups = await pool.collect_all(prompts, sampling)
            if pair >= 0:
                raw_rates.append(raw_tokens / raw_s)
                actor_rates.append(sum(group.num_tokens for group in groups) / (time.perf_counter() - start))
        await pool.stop()
    here.send("stop")
    raw.join(30)
    end_with_children(raw)
    return compare("rollout tokens/s, actor path", "tokens/s", actor_rates, raw_rates, "raw vLLM", ">= 0.95").row()


def end_with_children(process: Any) -> None:
    """vLLM's own end can hang after the last result, and its engine is a process of its own."""
    if process.is_alive():
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()


def main() -> None:
    show([measure()])


if __name__ == "__main__":
    main()
