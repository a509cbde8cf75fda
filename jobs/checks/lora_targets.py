"""Whether `learner.lora.target_modules` names layers that can have adapters.

Given a model folder and the names; raises one ValueError with a line for each name that cannot work. The model is built
without memory for its weights (the meta device), so this takes a second for any size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def check_lora_targets(model_path: str, targets: Sequence[str]) -> None:
    """Raise unless every name is of linear layers. A name means all modules whose path is it or ends in `.name`."""
    model = _without_weights(model_path)
    head = model.get_output_embeddings()
    problems = [problem for target in targets if (problem := _problem(model, head, target))]
    if not targets:
        problems = ["is empty: nothing would be trained"]
    if problems:
        names = ", ".join(_linear_names(model, head))
        raise ValueError("\n".join(f"{problem}; this model's linear layers are {names}" for problem in problems))


def _without_weights(model_path: str) -> nn.Module:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(model_path, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        model: nn.Module = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return model


def _problem(model: nn.Module, head: nn.Module | None, target: str) -> str | None:
    """Why adapters on this name cannot work. Names match as in peft; what we cannot save is refused."""
    from torch import nn

    found = [module for path, module in model.named_modules() if path == target or path.endswith(f".{target}")]
    if not found:
        return f"{target!r} is no module of the model"
    for module in found:
        if module is head:
            return f"{target!r} is the output head, which gets no adapter"
        if isinstance(module, nn.Embedding):
            return f"{target!r} is an embedding, which gets no adapter"
        if not _is_linear(module):
            return f"{target!r} is a {type(module).__name__}, not a linear layer"
    return None


def _is_linear(module: nn.Module) -> bool:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)


def _linear_names(model: nn.Module, head: nn.Module | None) -> list[str]:
    """The last part of each path, in the order of the model."""
    counts: dict[str, int] = defaultdict(int)
    for path, module in model.named_modules():
        if _is_linear(module) and module is not head:
            counts[path.rpartition(".")[2]] += 1
    return list(counts)
