"""The policy's weights under their Hugging Face names, and model folders made of them.

Given a `LearnerEngine`; gives full tensors bucket by bucket (gathered where they are sharded, adapters merged), their
metadata, and a folder that loads in transformers and vLLM.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from raylign.learners.engines.distributed import rank

if TYPE_CHECKING:
    from raylign.learners.engines.base import LearnerEngine

GATHER_BYTES = 256 * 2**20
SHARD_BYTES = 4 * 2**30
TOKENIZER_FILES = (
    "tokenizer*",
    "vocab*",
    "merges*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "*.model",
)


def export_names(engine: LearnerEngine) -> list[tuple[str, torch.nn.Parameter]]:
    """(name in the Hugging Face model, parameter) in model order; no adapters, a tied head once."""
    return [
        (name.replace(".base_layer.", "."), parameter)
        for name, parameter in engine.policy.model.named_parameters()
        if ".lora_" not in name
    ]


def weight_metadata(engine: LearnerEngine) -> list[tuple[str, tuple[int, ...], torch.dtype]]:
    """(name, full shape, dtype) of what `weights` yields, in its order; needs no collective."""
    return [(name, engine.full_shape(parameter), parameter.dtype) for name, parameter in export_names(engine)]


def weights(engine: LearnerEngine) -> Iterator[tuple[str, torch.Tensor]]:
    """Full weights in model order. All ranks must go through it together (each bucket is a collective where
    parameters are sharded).

    Adapters are merged in float32. A tensor may alias the live parameter: copy what outlives the next step.
    """
    adapters = _adapters(engine)
    bucket: list[tuple[str, torch.nn.Parameter]] = []
    num_bytes = 0
    for name, parameter in export_names(engine):
        bucket.append((name, parameter))
        num_bytes += math.prod(engine.full_shape(parameter)) * parameter.element_size()
        if num_bytes >= GATHER_BYTES:
            yield from _full_tensors(engine, bucket, adapters)
            bucket, num_bytes = [], 0
    if bucket:
        yield from _full_tensors(engine, bucket, adapters)


@dataclass(frozen=True)
class _Adapter:
    """Of a weight W (out, in): W + scaling·B·A."""

    a: torch.nn.Parameter
    """(rank, in)"""
    b: torch.nn.Parameter
    """(out, rank)"""
    scaling: float
    is_transposed: bool
    """W lies as (in, out), as in GPT-2."""

    def merged_into(self, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """With the whole matrices; in float32, then in the dtype of `weight`."""
        update = self.scaling * (b.float() @ a.float())
        return (weight.float() + (update.T if self.is_transposed else update)).to(weight.dtype)


def _adapters(engine: LearnerEngine) -> dict[str, _Adapter]:
    """By the base weight's name."""
    if engine.policy.peft is None:
        return {}
    from peft.tuners.lora import LoraLayer

    return {
        f"{name}.weight": _Adapter(
            module.lora_A["default"].weight,
            module.lora_B["default"].weight,
            module.scaling["default"],
            bool(getattr(module, "fan_in_fan_out", False)),
        )
        for name, module in engine.policy.model.named_modules()
        if isinstance(module, LoraLayer)
    }


def _full_tensors(
    engine: LearnerEngine,
    bucket: list[tuple[str, torch.nn.Parameter]],
    adapters: dict[str, _Adapter],
) -> list[tuple[str, torch.Tensor]]:
    merged = [adapters[name] for name, _ in bucket if name in adapters]
    needed = [parameter for _, parameter in bucket] + [matrix for each in merged for matrix in (each.a, each.b)]
    full = {id(parameter): tensor for parameter, tensor in zip(needed, engine.full_tensors(needed), strict=True)}
    tensors = []
    for name, parameter in bucket:
        tensor = full[id(parameter)]
        if adapter := adapters.get(name):
            tensor = adapter.merged_into(tensor, full[id(adapter.a)], full[id(adapter.b)])
        tensors.append((name, tensor))
    return tensors


def save_model(engine: LearnerEngine, folder: Path, source: str) -> None:
    """Write the Hugging Face folder on rank 0: config, safetensors, tokenizer of `source`; adapters beside under
    `adapter/`. Files are written while weights are gathered, so no process holds more than one of them.
    """
    from safetensors.torch import save_file

    writes = rank() == 0
    if writes:
        folder.mkdir(parents=True, exist_ok=True)
    file_of = _plan_files(engine)
    last_in_file = {file: name for name, file in file_of.items()}
    held: dict[str, torch.Tensor] = {}
    for name, tensor in weights(engine):
        if writes:
            held[name] = tensor.cpu().contiguous()
            file = file_of[name]
            if name == last_in_file[file]:
                save_file(held, str(folder / file), metadata={"format": "pt"})
                held = {}
    adapter = _adapter_state(engine)
    if not writes:
        return
    if len(last_in_file) > 1:
        index = {"metadata": {}, "weight_map": file_of}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    _save_config(engine, folder)
    _save_tokenizer(source, folder)
    if engine.policy.peft is not None:
        engine.policy.peft.save_pretrained(str(folder / "adapter"), state_dict=adapter, save_embedding_layers=False)


def _plan_files(engine: LearnerEngine) -> dict[str, str]:
    """Which file each weight goes to, in model order, none much over `SHARD_BYTES`."""
    numbers, number, held_bytes = {}, 1, 0
    for name, shape, dtype in weight_metadata(engine):
        num_bytes = torch.Size(shape).numel() * dtype.itemsize
        if held_bytes and held_bytes + num_bytes > SHARD_BYTES:
            number, held_bytes = number + 1, 0
        numbers[name] = number
        held_bytes += num_bytes
    if number == 1:
        return dict.fromkeys(numbers, "model.safetensors")
    return {name: f"model-{part:05d}-of-{number:05d}.safetensors" for name, part in numbers.items()}


def adapter_weights(engine: LearnerEngine) -> dict[str, torch.Tensor]:
    """The adapters alone, under the names that peft gives them in a file; copies. A collective where parameters are
    sharded."""
    return {name.replace(".default.", "."): tensor for name, tensor in _adapter_state(engine).items()}


def adapter_config(engine: LearnerEngine) -> dict[str, Any]:
    """What `adapter_config.json` says beside them."""
    assert engine.policy.peft is not None, "only with learner.lora"
    config = engine.policy.peft.peft_config["default"]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "target_modules": sorted(config.target_modules),
        "bias": "none",
    }


def _adapter_state(engine: LearnerEngine) -> dict[str, torch.Tensor]:
    if engine.policy.peft is None:
        return {}
    named = [(n, p) for n, p in engine.policy.peft.named_parameters() if ".lora_" in n]
    tensors = engine.full_tensors([parameter for _, parameter in named])
    return {name: tensor.cpu().clone() for (name, _), tensor in zip(named, tensors, strict=True)}


def _save_config(engine: LearnerEngine, folder: Path) -> None:
    model = engine.policy.model
    config = model.config.to_dict()
    config["dtype"] = str(next(iter(weight_metadata(engine)))[2]).removeprefix("torch.")
    config["architectures"] = [type(model).__name__]
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True, default=str) + "\n")
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.save_pretrained(str(folder))


def _save_tokenizer(source: str, folder: Path) -> None:
    if not Path(source).is_dir():
        from transformers import AutoTokenizer

        AutoTokenizer.from_pretrained(source, trust_remote_code=False).save_pretrained(str(folder))
        return
    for pattern in TOKENIZER_FILES:
        for file in sorted(Path(source).glob(pattern)):
            shutil.copy2(file, folder / file.name)
