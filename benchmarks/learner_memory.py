"""What a learner rank takes at its fullest, measured, against what `plan` says it will: sizes × ZeRO stages, on CPU.

Given nothing; for each model and stage two ranks with the real DeepSpeed train three steps of two passes each. Measured
is the memory of a process's own, at its most (looked at every 2 ms), beyond what it had with all libraries imported and
before it loaded the model; the estimate is the sum of its parts without the libraries. Memory that PyTorch has freed
goes back to the kernel at once here (`MALLOC`), so that what counts is tensors, not what the allocator keeps of them;
`--allocator` leaves glibc as it is.

    .venv/bin/python -m benchmarks.learner_memory
"""

from __future__ import annotations

import argparse
import gc
import importlib
import itertools
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measurement import Measurement, show
from benchmarks.own_memory import Watch, own_mib

SIZES: dict[str, dict[str, int]] = {
    "5M": {"num_layers": 6, "width": 256, "num_heads": 4, "num_kv_heads": 2, "mlp_width": 768},
    "21M": {"num_layers": 6, "width": 512, "num_heads": 8, "num_kv_heads": 4, "mlp_width": 1536},
    "60M": {"num_layers": 8, "width": 768, "num_heads": 12, "num_kv_heads": 6, "mlp_width": 2304},
}
STAGES = (0, 2, 3)
NUM_RANKS = 2
VOCABULARY = 4096
PASSES = (2048, 256)
"""Tokens: in a long pass activations are most of what is held, in a short one weights, gradients and optimizer."""
PROMPT, SEQUENCE, NUM_PASSES, NUM_STEPS = 8, 128, 2, 3
WITHIN = 0.15
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}
DEADLINE_S = 900
LIBRARIES = (
    "raylign.learners.learner",
    "transformers.models.qwen3.modeling_qwen3",
    "deepspeed",
    "deepspeed.runtime.zero.muon.muon_optimizer",  # loaded by every stage of ZeRO, whatever the optimizer
)


class Case(NamedTuple):
    """What is trained, but for the model."""

    stage: int
    num_ranks: int
    dtype: str
    tokens: int
    """Of a pass."""


def training(model: Path | str, stage: int, num_ranks: int, dtype: str, tokens: int) -> Any:
    """The config that is planned and trained: `NUM_PASSES` full passes of each rank make a step."""
    from raylign.jobs.config.train import TrainConfig

    num_sequences = num_ranks * NUM_PASSES * tokens // SEQUENCE
    return TrainConfig.model_validate(
        {
            "model": {"path": str(model)},
            "rewards": [{"name": "numeric"}],
            "sampling": {"num_completions": 2, "max_tokens": SEQUENCE - PROMPT},
            "rollout": {"prompts_per_step": num_sequences // 2, "engine": {"max_model_len": SEQUENCE}},
            "learner": {
                "num_ranks": num_ranks,
                "zero_stage": stage,
                "dtype": dtype,
                "micro_batch_tokens": tokens,
                "threads_per_rank": 1,
            },
        }
    )


def make_model(folder: Path, name: str) -> Path:
    """Random weights; a tokenizer of random words, as many as the vocabulary wants."""
    from raylign.jobs.init_model import InitModelConfig, init_model
    from raylign.rollout.data.config import DataConfig

    rows, letters = folder / "rows.jsonl", "abcdefghijklmnopqrstuvwxyz"
    draw = random.Random(0)
    words = ["".join(draw.choices(letters, k=8)) for _ in range(3000)]
    rows.write_text("\n".join(json.dumps({"question": " ".join(words[n : n + 9]), "answer": "1"}) for n in range(3000)))
    config = {"output": folder / name, "data": DataConfig(source=str(rows)), "vocabulary_size": VOCABULARY}
    return init_model(InitModelConfig(**config, **SIZES[name]))


def rank_main(model: str, out: str, case: Case) -> None:
    """In a rank: train, and write what it took."""
    for library in LIBRARIES:
        importlib.import_module(library)
    import numpy as np
    import torch

    from raylign.learners.engines.distributed import ensure_process_group, rank
    from raylign.learners.examples.example import Example
    from raylign.learners.learner import Learner

    config = training(model, *case)
    torch.set_num_threads(1)
    ensure_process_group(DEADLINE_S)
    square = torch.ones(64, 64, requires_grad=True)
    (square @ square).sum().backward()  # threads of the backward pass
    torch.distributed.all_reduce(square.detach())
    draw = np.random.default_rng(0)
    length = SEQUENCE - PROMPT
    examples = [
        Example(
            draw.integers(3, VOCABULARY, PROMPT).astype(np.int32),
            draw.integers(3, VOCABULARY, length).astype(np.int32),
            loss_mask=np.ones(length, np.float32),
            advantages=draw.normal(size=length).astype(np.float32),
            rollout_logps=np.full(length, -8.3, np.float32),
        )
        for _ in range(case.num_ranks * NUM_PASSES * case.tokens // SEQUENCE)
    ]
    gc.collect()
    before, watch = own_mib(), Watch()
    objective = config.algorithm.build_objective(0)
    learner = Learner(config.learner, model, objective, 1.0, NUM_STEPS, 0, Path(out))
    built = own_mib()
    for _ in range(NUM_STEPS):
        learner.update(examples)
    most, end = watch.stop(), own_mib()
    found = {"before": before, "built": built - before, "most": most - before, "end": end - before}
    (Path(out) / f"rank{rank()}.json").write_text(json.dumps(found))


def measured(model: Path, out: Path, case: Case, malloc: dict[str, str]) -> dict[str, float]:
    """MiB of the rank that took most."""
    out.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "benchmarks.learner_memory", "--rank", str(model), str(out), *map(str, case)]
    ranks = []
    try:
        for rank in range(case.num_ranks):
            of_rank = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(case.num_ranks)}
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
            ranks.append(subprocess.Popen(command, env={**os.environ, **malloc, **address, **of_rank}))
        codes = [process.wait(DEADLINE_S) for process in ranks]
        assert codes == [0] * case.num_ranks, f"ranks ended with {codes}"
    finally:
        for process in ranks:
            if process.poll() is None:
                process.kill()
    found = [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(case.num_ranks)]
    return max(found, key=lambda one: one["most"])


def estimated(model: Path, case: Case) -> dict[str, float]:
    """MiB by part."""
    from raylign.jobs.checks.learner_memory import learner_bytes
    from raylign.jobs.checks.memory_estimate import read_model_size

    size = read_model_size(model)
    assert size is not None
    parts = learner_bytes(size, training(model, *case), on_gpu=False)
    return {part: num_bytes / 2**20 for part, num_bytes in parts.items() if part != "libraries"}


def measure(
    sizes: Sequence[str] = tuple(SIZES),
    stages: Sequence[int] = STAGES,
    num_ranks: int = NUM_RANKS,
    dtype: str = "float32",
    passes: Sequence[int] = PASSES,
    malloc: dict[str, str] = MALLOC,
) -> list[dict[str, Any]]:
    """A row for each size, length of a pass and stage."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        models = {name: make_model(Path(folder), name) for name in sizes}
        for (name, model), tokens, stage in itertools.product(models.items(), passes, stages):
            case = Case(stage, num_ranks, dtype, tokens)
            found = measured(model, Path(folder) / f"{name}-{tokens}-{stage}", case, malloc)
            parts = estimated(model, case)
            ratio = sum(parts.values()) / found["most"]
            words = ", ".join(f"{part} {mib:.0f}" for part, mib in parts.items())
            rows.append(
                Measurement(
                    f"rank memory, {name} {dtype}, passes of {tokens}, stage {stage} of {num_ranks} ranks: off by",
                    "share",
                    abs(ratio - 1),
                    goal=f"<= {WITHIN}",
                    notes=[
                        f"measured {found['most']:.0f} MiB, estimated {sum(parts.values()):.0f}, ÷ measured "
                        f"{ratio:.2f}: {words}; before the model {found['before']:.0f}, built {found['built']:.0f}, "
                        f"after the last step {found['end']:.0f}"
                    ],
                    details={"measured": found, "estimated": parts},
                ).row()
            )
            show(rows[-1:])
    return rows


def main() -> None:
    if sys.argv[1:2] == ["--rank"]:
        model, out, stage, num_ranks, dtype, tokens = sys.argv[2:]
        rank_main(model, out, Case(int(stage), int(num_ranks), dtype, int(tokens)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--stages", nargs="+", type=int, default=list(STAGES))
    parser.add_argument("--passes", nargs="+", type=int, default=list(PASSES))
    parser.add_argument("--ranks", type=int, default=NUM_RANKS)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--allocator", action="store_true", help="leave the allocator as a run has it")
    asked = parser.parse_args()
    malloc = {} if asked.allocator else MALLOC
    measure(asked.sizes, asked.stages, asked.ranks, asked.dtype, asked.passes, malloc)


if __name__ == "__main__":
    main()
