"""Weight updates through the whole path against vLLM's own reload of the same tensors from its process's memory.

Given nothing (it makes models with a tiny vocabulary); prints GB/s, pauses and their ratios over interleaved pairs, as
a table and as JSON, and exits 1 below the goals. Learner and engine are processes of their own, on a core each.

    .venv/bin/python benchmarks/weight_sync.py [50M] [float32]
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raylign.actors.rollout_worker import RolloutWorker
from raylign.rollout.weights.buckets import BucketInfo

GOAL_RATE, GOAL_EXTRA_PAUSE_S = 0.85, 0.05
SHAPES: dict[str, dict[str, int]] = {
    "1M": {"num_layers": 4, "width": 128, "mlp_width": 384, "num_heads": 4, "num_kv_heads": 2},
    "50M": {"num_layers": 7, "width": 768, "mlp_width": 2304, "num_heads": 12, "num_kv_heads": 6},
    "500M": {"num_layers": 18, "width": 1536, "mlp_width": 4608, "num_heads": 24, "num_kv_heads": 12},
}
NUM_PAIRS = {"1M": 15, "50M": 8, "500M": 5}
DTYPES = ("float32", "bfloat16")
ENGINE_CORE, OTHER_CORE = 1, 0


def hold_weights(worker: Any, buckets: list[dict[str, Any]]) -> None:
    """In vLLM's process: keep copies of the sent tensors in plain memory."""
    from raylign.rollout.weights.buckets import BucketInfo, read_bucket

    worker.held = [(n, t.clone()) for bucket in buckets for n, t in read_bucket(BucketInfo(**bucket))]


def reload_held(worker: Any) -> tuple[float, float]:
    """In vLLM's process: seconds of its own reload of those tensors, and of a plain copy of the same bytes."""
    import torch
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

    model = worker.model_runner.get_model()
    started_at = time.perf_counter()
    with set_current_vllm_config(worker.vllm_config):
        initialize_layerwise_reload(model)
        model.load_weights(iter(worker.held))
        finalize_layerwise_reload(model, worker.model_config)
    reloaded_at = time.perf_counter()
    if not hasattr(worker, "copies"):
        worker.copies = [torch.empty_like(tensor).fill_(1) for _, tensor in worker.held]
    copy_at = time.perf_counter()
    for target, (_, tensor) in zip(worker.copies, worker.held, strict=True):
        target.copy_(tensor)
    return reloaded_at - started_at, time.perf_counter() - copy_at


class MeasuredWorker(RolloutWorker):
    """A rollout worker that also runs functions inside vLLM's worker process."""

    async def inside(self, function: Any, *arguments: Any) -> Any:
        (result,) = await self._engine._llm.collective_rpc(function, args=arguments)
        return result


class StillLearner:
    """The learner's end of an update: weights, and a sender."""

    def __init__(self, model: str, dtype: str, bucket_bytes: int) -> None:
        import os

        import torch
        from transformers import AutoModelForCausalLM

        from raylign.rollout.weights.buckets import SharedMemorySender

        os.sched_setaffinity(0, {OTHER_CORE})
        torch.set_num_threads(1)
        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
        self._sender = SharedMemorySender(bucket_bytes)

    def export_weights(self, version: int) -> list[BucketInfo]:
        return self._sender.export(version, self._model.named_parameters())

    def release_weights(self) -> None:
        self._sender.release()


class Remote:
    """Awaitable verbs of an actor, as the publisher wants its learner."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __getattr__(self, verb: str) -> Any:
        return getattr(self._actor, verb).remote


async def measure_size(size: str, dtype: str, folder: Path) -> dict[str, Any]:
    """One model: rates and pauses."""
    import numpy as np
    import ray

    from raylign.actors.fleet import Fleet
    from raylign.actors.weights.config import WeightsConfig
    from raylign.actors.weights.publisher import WeightPublisher
    from raylign.jobs.init_model import InitModelConfig, init_model
    from raylign.rollout.data.config import DataConfig
    from raylign.rollout.engine.config import EngineConfig
    from raylign.rollout.sample import Prompt
    from raylign.rollout.sampling import SamplingConfig

    output = folder / size
    if not output.exists():
        rows = folder / "rows.jsonl"
        rows.write_text("\n".join(json.dumps({"question": f"what is {a}?", "answer": str(a)}) for a in range(99)))
        config: Any = {"vocabulary_size": 300, **SHAPES[size]}
        init_model(InitModelConfig(output=output, data=DataConfig(source=str(rows)), **config))
    config_ = WeightsConfig()
    environment = {"env_vars": {"VLLM_ALLOW_INSECURE_SERIALIZATION": "1"}}
    engine_config = EngineConfig(
        dtype=dtype,
        max_model_len=512,
        max_num_seqs=16,
        kv_cache_gib=0.3,
        cpu_cores=str(ENGINE_CORE),
    )
    worker = (
        ray.remote(MeasuredWorker)
        .options(num_cpus=0, max_concurrency=1000, runtime_env=environment)
        .remote(str(output), engine_config, "shared_memory", 0, 0, 0, str(ENGINE_CORE))
    )
    learner = ray.remote(StillLearner).options(num_cpus=0).remote(str(output), dtype, config_.bucket_mib << 20)
    try:
        await worker.start.remote()
        publisher = WeightPublisher(Fleet([worker]), Remote(learner), config_)
        first = await publisher.export(1)
        await worker.inside.remote(hold_weights, [asdict(bucket) for bucket in first.buckets])
        await publisher.deliver(first)
        reloads, copies, updates = [], [], []
        for pair in range(NUM_PAIRS[size]):
            reload_s, copy_s = await worker.inside.remote(reload_held)
            reloads.append(reload_s)
            copies.append(copy_s)
            await publisher.publish(2 + pair)
            updates.append(publisher.last)
        busy_pauses = []
        if size == "1M":
            prompt = Prompt("row", 0, "x", np.array([21, 22, 23], dtype=np.int32))
            for pair in range(NUM_PAIRS[size]):
                await worker.submit.remote([prompt], SamplingConfig(num_completions=8, max_tokens=200))
                await asyncio.sleep(0.1)
                await publisher.publish(1000 + pair)
                assert publisher.last is not None
                busy_pauses.append(publisher.last.pause_s)
                while not await worker.take.remote(20.0):
                    pass
        num_bytes = first.num_bytes
        await publisher.close()
        await worker.stop.remote()
    finally:
        ray.kill(worker)
        ray.kill(learner)

    def median(values: list[float]) -> float:
        return statistics.median(values)

    pauses = [update.pause_s for update in updates]
    extras = [pause - reload for pause, reload in zip(pauses, reloads, strict=True)]
    ratios = [reload / pause for pause, reload in zip(pauses, reloads, strict=True)]
    result = {
        "model": size,
        "dtype": dtype,
        "bytes": num_bytes,
        "calls_while_paused": 2 + len(first.calls(2 << 30)),
        "memcpy_gb_per_s": num_bytes / median(copies) / 1e9,
        "reload_s": median(reloads),
        "reload_gb_per_s": num_bytes / median(reloads) / 1e9,
        "pause_s": median(pauses),
        "pause_gb_per_s": num_bytes / median(pauses) / 1e9,
        "load_s": median([update.load_s for update in updates]),
        "export_s": median([update.export_s for update in updates]),
        "check_s": median([update.deliver_s - update.pause_s for update in updates]),
        "ratio": median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
        "best_reload_s": min(reloads),
        "best_pause_s": min(pauses),
        "extra_pause_s": median(extras),
    }
    if busy_pauses:
        result["busy_pause_s"] = median(busy_pauses)
        result["busy_extra_pause_s"] = median(busy_pauses) - median(reloads)
    return result


def measure(sizes: tuple[str, ...] = tuple(SHAPES), dtypes: tuple[str, ...] = DTYPES) -> dict[str, Any]:
    """All models; under `rows`, one each."""
    from raylign.actors.cluster import ClusterConfig, ray_cluster

    async def all_of_them(folder: Path) -> list[dict[str, Any]]:
        return [await measure_size(size, dtype, folder) for size in sizes for dtype in dtypes]

    with tempfile.TemporaryDirectory() as folder, ray_cluster(ClusterConfig()):
        return {"name": "weight_sync", "rows": asyncio.run(all_of_them(Path(folder)))}


def main() -> int:
    """Measure, print, judge."""
    asked = tuple(sys.argv[1:])
    result = measure(
        tuple(size for size in SHAPES if size in asked) or tuple(SHAPES),
        tuple(dtype for dtype in DTYPES if dtype in asked) or DTYPES,
    )
    print(f"{'model':>6} {'dtype':>9} {'MB':>6} {'memcpy':>7} {'reload':>13} {'pause':>13} {'ratio':>6} "
          f"{'extra ms':>8} {'export s':>8} {'check s':>8}")  # fmt: skip
    for row in result["rows"]:
        print(
            f"{row['model']:>6} {row['dtype']:>9} {row['bytes'] / 1e6:6.0f} {row['memcpy_gb_per_s']:7.1f} "
            f"{row['reload_s']:7.3f} {row['reload_gb_per_s']:5.2f} {row['pause_s']:7.3f} {row['pause_gb_per_s']:5.2f} "
            f"{row['ratio']:6.2f} {row['extra_pause_s'] * 1e3:8.1f} {row['export_s']:8.3f} {row['check_s']:8.3f}"
            f"  (best: {row['best_reload_s']:.3f} {row['best_pause_s']:.3f})"
            + (f"  (generating: +{row['busy_extra_pause_s'] * 1e3:.1f} ms)" if "busy_extra_pause_s" in row else "")
        )
    print(json.dumps(result))
    good = all(
        row["extra_pause_s"] <= GOAL_EXTRA_PAUSE_S and (row["model"] == "1M" or row["ratio"] >= GOAL_RATE)
        for row in result["rows"]
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
