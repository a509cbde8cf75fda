"""How large a model is, from the headers of its weight files, and what an engine and a checkpoint take.

Given a model folder and a `TrainConfig`; gives bytes by part. What a learner rank takes is in `learner_memory.py`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raylign.jobs.checks.machine import GIB, Machine
from raylign.jobs.config.train import TrainConfig
from raylign.rollout.engine.config import EngineConfig
from raylign.rollout.model_folder import find_model_folder

BYTES = {"float32": 4, "bfloat16": 2}
ENGINE_LIBRARIES_BYTES = 11 * GIB // 10
"""Measured: vLLM's front process and engine core."""


ENGINE_GPU_REST_BYTES = 3 * GIB // 2
"""About: CUDA's context, activations of a step, graphs. Not measured here."""


@dataclass(frozen=True)
class ModelSize:
    """What memory depends on."""

    num_parameters: int
    matrix_shapes: tuple[tuple[int, int], ...]
    """Of linear layers (no embeddings): where LoRA adapters sit."""
    num_layers: int
    width: int
    mlp_width: int
    vocabulary_size: int
    num_kv_heads: int
    head_width: int
    max_positions: int | None
    query_width: int
    """Of all heads together."""
    normalizes_heads: bool
    """Queries and keys go through norms of their own."""

    def kv_bytes_per_token(self, dtype_bytes: int) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_width * dtype_bytes


MAX_HEADER_BYTES = 100_000_000
"""As safetensors itself has it."""


def read_model_size(folder: Path) -> ModelSize | None:
    """From config.json and the headers of *.safetensors; None for other formats."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config = config.get("text_config", config)
    shapes = {name: shape for file in folder.glob("*.safetensors") for name, shape in _header(file).items()}
    if not shapes or "hidden_size" not in config:
        return None
    heads = config["num_attention_heads"]
    return ModelSize(
        num_parameters=sum(math.prod(shape) for shape in shapes.values()),
        matrix_shapes=tuple(
            (shape[0], shape[1])
            for name, shape in shapes.items()
            if len(shape) == 2 and "embed" not in name and "lm_head" not in name
        ),
        num_layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        mlp_width=config.get("intermediate_size", 4 * config["hidden_size"]),
        vocabulary_size=config["vocab_size"],
        num_kv_heads=config.get("num_key_value_heads") or heads,
        head_width=(head_width := config.get("head_dim") or config["hidden_size"] // heads),
        max_positions=config.get("max_position_embeddings"),
        query_width=heads * head_width,
        normalizes_heads=any("q_norm" in name for name in shapes),
    )


def model_size_of(path: str) -> ModelSize | None:
    """Of a folder, or of a Hugging Face model that was downloaded before; None where nothing is here."""
    folder = find_model_folder(path) or cached_snapshot(path)
    return read_model_size(folder) if folder is not None else None


def cached_snapshot(name: str) -> Path | None:
    """The folder of a Hugging Face model that was downloaded before."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _header(file: Path) -> dict[str, list[int]]:
    """Tensor names and shapes: 8 bytes of length, then JSON."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"{file}: not a safetensors file (it says that its header has {length:,} bytes)")
        text = stream.read(length)
    try:
        header: dict[str, Any] = json.loads(text)
        shapes = {name: [int(n) for n in entry["shape"]] for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file}: not a safetensors file (its header cannot be read: {error})") from None
    return shapes


def checkpoint_bytes(size: ModelSize, config: TrainConfig, on_gpu: bool) -> int:
    """Disk of one checkpoint: the model to load, and beside it the state to resume, of all ranks together."""
    learner = config.learner
    dtype_bytes = BYTES[resolved_dtype(learner.dtype, on_gpu)]
    moments = (12 if dtype_bytes == 2 else 8) * trained_parameters(size, config)
    return 2 * size.num_parameters * dtype_bytes + moments


def trained_parameters(size: ModelSize, config: TrainConfig) -> int:
    lora = config.learner.lora
    if lora is None:
        return size.num_parameters
    return lora.rank * sum(rows + columns for rows, columns in size.matrix_shapes)


def engine_bytes(size: ModelSize, engine: EngineConfig, machine: Machine) -> dict[str, int]:
    """Memory of one engine, on each of its GPUs or on the machine."""
    if machine.gpus:
        smallest = min(gpu.memory_bytes for gpu in machine.gpus)
        return {"vLLM (gpu_memory_utilization)": int(engine.gpu_memory_utilization * smallest)}
    return engine_bytes_on_host(size, engine)


def engine_bytes_on_host(size: ModelSize, engine: EngineConfig) -> dict[str, int]:
    """Of one engine without GPU."""
    return {
        "weights": size.num_parameters * BYTES[resolved_dtype(engine.dtype, on_gpu=False)],
        "KV cache": int(engine.kv_cache_gib * GIB),
        "libraries": ENGINE_LIBRARIES_BYTES,
    }


def engine_parts_on_gpu(size: ModelSize, engine: EngineConfig, gpu_bytes: int | None) -> dict[str, int]:
    """On each GPU of one engine: what vLLM takes of it, whose cache is what weights and the rest leave."""
    weights = size.num_parameters * BYTES[resolved_dtype(engine.dtype, on_gpu=True)] // engine.tensor_parallel_size
    if gpu_bytes is None:
        return {"weights": weights}
    left = int(engine.gpu_memory_utilization * gpu_bytes) - weights - ENGINE_GPU_REST_BYTES
    return {"weights": weights, "cache": max(0, left), "other": ENGINE_GPU_REST_BYTES}


def kv_cache_tokens(size: ModelSize, engine: EngineConfig) -> int:
    """Tokens that fit in the KV cache of a CPU engine."""
    return int(engine.kv_cache_gib * GIB) // size.kv_bytes_per_token(BYTES[resolved_dtype(engine.dtype, on_gpu=False)])


def kv_cache_tokens_in(num_bytes: int, size: ModelSize, engine: EngineConfig) -> int:
    """Tokens that fit in so many bytes of each GPU of an engine, over which its heads are spread."""
    spread = min(engine.tensor_parallel_size, size.num_kv_heads)
    return num_bytes * spread // size.kv_bytes_per_token(BYTES[resolved_dtype(engine.dtype, on_gpu=True)])


def resolved_dtype(dtype: str, on_gpu: bool) -> str:
    return dtype if dtype != "auto" else "bfloat16" if on_gpu else "float32"
