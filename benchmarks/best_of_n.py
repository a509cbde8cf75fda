"""Tokens/s of `raylign data best-of-n` against raw vLLM in one process, on the same prompts, 8 answers each.

Given nothing (it makes the long-tailed workload); both rates and their ratio over interleaved pairs. Ours is all that
the command does once its engines run: pool, worker, engine, rewards, the durable line of each prompt, and the files of
best and worst for three n. Both engines are bound to the same core and have the same settings; both give text and the
log-prob of each sampled token.

    .venv/bin/python -m benchmarks.best_of_n
"""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.long_tail import DATA, MAX_MODEL_LEN, MAX_TOKENS, NUM_COMPLETIONS, prepare
from benchmarks.measurement import compare, engine_core, show
from benchmarks.rollout_throughput import KV_CACHE_GIB, MAX_NUM_SEQS, NUM_PROMPTS, end_with_children, raw_vllm

SIZES = [3, 6, NUM_COMPLETIONS]
REWARD = {"name": "length", "free_tokens": 32, "max_tokens": MAX_TOKENS}


def measure(num_pairs: int = 8) -> dict[str, Any]:
    """One row."""
    return asyncio.run(_pairs(num_pairs))


async def _pairs(num_pairs: int) -> dict[str, Any]:
    """Start both sides, run them in turn."""
    from raylign.actors.cluster import ClusterConfig, ray_cluster
    from raylign.jobs.data.best_of_n import drawing_of, open_prompts, write_results
    from raylign.jobs.data.best_of_n_config import BestOfNConfig
    from raylign.jobs.data.draw_log import DrawIdentity, DrawLog
    from raylign.jobs.data.drawing import DrawReport, draw_missing
    from raylign.jobs.run.roles import start_pool

    root, cores = Path(tempfile.mkdtemp()), str(engine_core())
    model = str(prepare(root / "workload").model)

    def configured(folder: Path) -> BestOfNConfig:
        values = {
            "folder": folder,
            "model": model,
            "data": DATA,
            "num_prompts": NUM_PROMPTS,
            "best_of": SIZES,
            "sampling": {"max_tokens": MAX_TOKENS},
            "rewards": [REWARD],
            "engine": {
                "max_model_len": MAX_MODEL_LEN,
                "max_num_seqs": MAX_NUM_SEQS,
                "kv_cache_gib": KV_CACHE_GIB,
                "cpu_cores": cores,
            },
            "cluster": {"address": "local"},
        }
        return BestOfNConfig.model_validate(values)

    config = configured(root)
    prompts, fingerprint = open_prompts(config, model)
    here, there = multiprocessing.get_context("spawn").Pipe()
    token_ids = [prompt.token_ids.tolist() for prompt in prompts]
    raw = multiprocessing.get_context("spawn").Process(
        target=raw_vllm, args=(model, token_ids, cores, there), daemon=False
    )
    raw.start()
    with ray_cluster(config.cluster):
        pool = await start_pool(
            model,
            config.engine,
            1,
            config.rewards,
            weight_backend=None,
            weight_version=0,
            seed=0,
            cpus=0.5,
            cluster=ClusterConfig(),
            answer_deadline_s=300,
        )
        assert here.recv() == "ready"
        raw_rates, our_rates = [], []
        for pair in range(-1, num_pairs):  # the first pair warms up
            here.send("run")
            raw_tokens, raw_s = here.recv()
            folder = root / f"draw{pair}"
            report, start = DrawReport(), time.perf_counter()
            with DrawLog(folder / "draws.jsonl", DrawIdentity(model, fingerprint, max(SIZES))) as log:
                await draw_missing(drawing_of(config, model), pool, prompts, log, report)
                write_results(configured(folder), prompts, log, report)
            if pair >= 0:
                raw_rates.append(raw_tokens / raw_s)
                our_rates.append(report.num_tokens / (time.perf_counter() - start))
        await pool.stop()
    here.send("stop")
    raw.join(30)
    end_with_children(raw)
    return compare("best-of-n sampler, tokens/s", "tokens/s", our_rates, raw_rates, "raw vLLM", ">= 0.95").row()


def main() -> None:
    show([measure()])


if __name__ == "__main__":
    main()
