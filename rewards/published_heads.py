"""Reward models whose heads have names of their own: safe-rlhf's (the beaver models) and Eurus-RM.

Given a model's config; gives how its head is loaded into transformers' sequence classifier of the same backbone, which
is all that these classes are: one linear layer on the last token's hidden state. No code of the folder is run.

    LlamaForScore, LlamaModelForScore, …    model.* and score_head.{weight, bias}    (PKU-Alignment/beaver-7b-…)
    EurusRewardModel                        model.* and regression_head.weight       (openbmb/Eurus-RM-7b)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

HEADS = {
    "LlamaForScore": "score_head",
    "LlamaModelForScore": "score_head",
    "MistralForScore": "score_head",
    "EurusRewardModel": "regression_head",
}
"""Class in the model's config, and what it calls its head; ours is `score`."""


def head_of(model_config: Any, model: str) -> str | None:
    """Its name in the weight files; None for a model that transformers loads as it is."""
    name = next((HEADS[each] for each in getattr(model_config, "architectures", None) or () if each in HEADS), None)
    if name is None:
        return None
    if getattr(model_config, "score_dim", 1) != 1:
        raise ValueError(f"reward model {model!r} gives {model_config.score_dim} scores, not one")
    if getattr(model_config, "do_normalize", False):
        raise ValueError(
            f"reward model {model!r} asks for scores normalised by running means (do_normalize), which are not read "
            "here: set do_normalize to false in its config.json; differences of scores then keep their order"
        )
    return name


def renamed(head: str) -> dict[str, str]:
    """For `from_pretrained`: patterns of names in the files, and ours."""
    return {rf"^{head}\.": "score."}


def add_bias(classifier: Any, head: str, model: str) -> None:
    """transformers' head has no bias; safe-rlhf's may have one."""
    import torch

    bias = stored_tensor(model, f"{head}.bias")
    if bias is None:
        return
    plain = classifier.score
    layer = torch.nn.Linear(plain.in_features, plain.out_features, dtype=plain.weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(plain.weight)
        layer.bias.copy_(bias)
    classifier.score = layer


def stored_tensor(model: str, name: str) -> torch.Tensor | None:
    """One tensor of a model folder or of a Hugging Face model that was downloaded; None where there is none."""
    from huggingface_hub import snapshot_download
    from safetensors import safe_open

    folder = Path(model) if Path(model).is_dir() else Path(snapshot_download(model, local_files_only=True))
    index = folder / "model.safetensors.index.json"
    files = sorted(folder.glob("*.safetensors"))
    if index.is_file():
        file = json.loads(index.read_text(encoding="utf-8"))["weight_map"].get(name)
        files = [folder / file] if file else []
    for path in files:
        with safe_open(path, framework="pt") as weights:
            if name in weights.keys():  # noqa: SIM118, it is no mapping
                return weights.get_tensor(name)
    return None
