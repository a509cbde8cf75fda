"""Reward models with classes of their own: tiny ones of the same shape, held against a plain re-computation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    AutoTokenizer,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    LlamaConfig,
    LlamaModel,
    MistralConfig,
    MistralModel,
)

from raylign.rewards.base import Item
from raylign.rewards.reward_model import RewardModel, RewardModelConfig
from tests.rewards.test_reward_model import make_model

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
ITEMS = [Item("say", (" hello", " a", " something much longer than that")), Item("b", ("c",))]


def published(
    folder: Path, backbone: Any, architecture: str, head: str, has_bias: bool, **more: Any
) -> tuple[str, Any, torch.nn.Linear]:
    """A folder as such a model is published; its backbone and head."""
    make_model(folder, None)
    torch.manual_seed(3)
    layer = torch.nn.Linear(SIZES["hidden_size"], 1, bias=has_bias)
    weights = {f"model.{name}": tensor.contiguous() for name, tensor in backbone.state_dict().items()}
    weights |= {f"{head}.{name}": tensor.contiguous() for name, tensor in layer.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    values = backbone.config.to_dict() | {"architectures": [architecture], **more}
    values.pop("num_labels", None)
    (folder / "config.json").write_text(json.dumps(values))
    return str(folder), backbone.eval(), layer


def plainly(model: str, backbone: Any, layer: torch.nn.Linear, text: str) -> float:
    """The head on the last token's hidden state."""
    token_ids = torch.tensor([AutoTokenizer.from_pretrained(model)(text)["input_ids"]])
    with torch.no_grad():
        return float(layer(backbone(input_ids=token_ids).last_hidden_state[0, -1]))


@pytest.mark.parametrize("architecture", ["LlamaForScore", "LlamaModelForScore"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("pad_id", [None, 0])
def test_a_score_model_of_safe_rlhf(architecture: str, bias: bool, pad_id: int | None, tmp_path: Path) -> None:
    torch.manual_seed(1)
    backbone = LlamaModel(LlamaConfig(vocab_size=40, pad_token_id=pad_id, **SIZES))
    more = {"score_dim": 1, "bias": bias, "score_type": "cost", "do_normalize": False}
    model, backbone, layer = published(tmp_path, backbone, architecture, "score_head", bias, **more)
    found = RewardModel(RewardModelConfig(model=model, dtype="float32")).score(ITEMS)
    for item, scores in zip(ITEMS, found, strict=True):
        for text, score in zip(item.completions, scores, strict=True):
            assert score == pytest.approx(plainly(model, backbone, layer, item.prompt + text), abs=1e-5)


def test_eurus_rm_is_loaded_without_its_code(tmp_path: Path) -> None:
    torch.manual_seed(2)
    backbone = MistralModel(MistralConfig(vocab_size=40, pad_token_id=None, **SIZES))
    code = {"auto_map": {"AutoModel": "modeling_eurus_rm.EurusRewardModel"}}
    model, backbone, layer = published(tmp_path, backbone, "EurusRewardModel", "regression_head", False, **code)
    (tmp_path / "modeling_eurus_rm.py").write_text("raise SystemExit('code of the folder was run')\n")
    found = RewardModel(RewardModelConfig(model=model, dtype="float32")).score(ITEMS)
    assert found[1] == [pytest.approx(plainly(model, backbone, layer, "bc"), abs=1e-5)]
    assert found[0][2] == pytest.approx(
        plainly(model, backbone, layer, "say something much longer than that"), abs=1e-5
    )


def test_a_head_without_weights_and_scores_that_are_normalised_are_refused(tmp_path: Path) -> None:
    backbone = LlamaModel(LlamaConfig(vocab_size=40, **SIZES))
    model, _, _ = published(tmp_path / "a", backbone, "LlamaForScore", "another_head", False)
    with pytest.raises(ValueError, match=r"lacks weights \(score\.weight\)"):
        RewardModel(RewardModelConfig(model=model))
    model, _, _ = published(tmp_path / "b", backbone, "LlamaForScore", "score_head", False, do_normalize=True)
    with pytest.raises(ValueError, match="do_normalize"):
        RewardModel(RewardModelConfig(model=model))


def test_a_model_of_two_texts_is_given_them_as_a_pair(tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    make_model(tmp_path, None)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    # `=` stands for the separator of a real tokenizer
    special = [("=", tokenizer.convert_tokens_to_ids("="))]
    backend = tokenizer.backend_tokenizer
    backend.post_processor = TemplateProcessing(single="$A =", pair="$A = $B =", special_tokens=special)
    tokenizer.save_pretrained(tmp_path)
    sizes = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
    torch.manual_seed(4)
    classifier = DebertaV2ForSequenceClassification(
        DebertaV2Config(vocab_size=40, num_labels=1, type_vocab_size=0, pad_token_id=0, **sizes)
    ).eval()
    classifier.save_pretrained(tmp_path)
    config = RewardModelConfig(model=str(tmp_path), text_pair=True, dtype="float32")
    found = RewardModel(config).score(ITEMS)
    for item, scores in zip(ITEMS, found, strict=True):
        for text, score in zip(item.completions, scores, strict=True):
            encoded = tokenizer(item.prompt, text, return_tensors="pt")
            assert encoded["input_ids"][0].tolist().count(special[0][1]) == 2
            with torch.no_grad():
                expected = float(classifier(encoded["input_ids"]).logits[0, 0])
            assert score == pytest.approx(expected, abs=1e-5)
