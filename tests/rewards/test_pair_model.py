"""The pair model: a tiny one of PairRM's shape, held against a plain re-computation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, DebertaV2Config, DebertaV2Model

from raylign.rewards.base import Item, RewardFailure
from raylign.rewards.pair_model import PairModel, PairModelConfig
from raylign.rewards.pair_scores import bradley_terry_probability
from raylign.rewards.reward_model import RewardModel, RewardModelConfig
from tests.rewards.test_reward_model import make_model

MARKS = ("<|source|>", "<|candidate1|>", "<|candidate2|>")
HIDDEN = 16


def published(folder: Path, num_tasks: int = 2, **changes: Any) -> tuple[str, DebertaV2Model, torch.nn.Sequential]:
    """A folder as PairRM is published, its backbone and head."""
    make_model(folder, None)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": list(MARKS)})
    around = [("[", tokenizer.convert_tokens_to_ids("[")), ("]", tokenizer.convert_tokens_to_ids("]"))]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="[ $A ]", special_tokens=around)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(5)
    config = DebertaV2Config(
        vocab_size=40,
        hidden_size=HIDDEN,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        type_vocab_size=0,
        pad_token_id=0,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        hidden_dropout_prob=0.5,
        initializer_range=0.4,
    )
    backbone = DebertaV2Model(config).eval()
    head = torch.nn.Sequential(
        torch.nn.Dropout(0.5),
        torch.nn.Linear(2 * HIDDEN, HIDDEN),
        torch.nn.Tanh(),
        torch.nn.Dropout(0.5),
        torch.nn.Linear(HIDDEN, num_tasks),
    ).eval()
    weights = {f"pretrained_model.{name}": tensor.contiguous() for name, tensor in backbone.state_dict().items()}
    weights |= {f"head_layer.{name}": tensor.contiguous() for name, tensor in head.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    ids = tokenizer.convert_tokens_to_ids(list(MARKS))
    names = ("source_prefix_id", "cand1_prefix_id", "cand2_prefix_id")
    values = config.to_dict() | {"architectures": ["DebertaV2PairRM"], "n_tasks": num_tasks, "drop_out": 0.5}
    (folder / "config.json").write_text(json.dumps(values | dict(zip(names, ids, strict=True)) | changes))
    return str(folder), backbone, head


def plainly(model: str, backbone: Any, head: Any, prompt: str, first: str, second: str) -> float:
    """By how much the first is better, one pair alone."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    parts = [tokenizer(mark + text)["input_ids"] for mark, text in zip(MARKS, (prompt, first, second), strict=True)]
    token_ids = torch.tensor([parts[0] + parts[1] + parts[2]])
    with torch.no_grad():
        hidden = backbone(input_ids=token_ids).last_hidden_state[0]
        source, one, two = (hidden[1 + sum(map(len, parts[:number]))] for number in range(3))
        return float((head(torch.cat([source, one])) - head(torch.cat([source, two]))).mean())


def test_of_two_answers_the_difference_is_the_mean_margin_of_both_orders(tmp_path: Path) -> None:
    model, backbone, head = published(tmp_path)
    items = [Item("say it", ("hello there", "a")), Item("b", ("something much longer than that", "c"))]
    found = PairModel(PairModelConfig(model=model, dtype="float32")).score(items)
    for item, scores in zip(items, found, strict=True):
        one, two = item.completions
        there = plainly(model, backbone, head, item.prompt, one, two)
        back = plainly(model, backbone, head, item.prompt, two, one)
        difference = (there - back) / 2
        assert abs(difference) > 0.01
        assert scores == [pytest.approx(difference / 2, abs=1e-5), pytest.approx(-difference / 2, abs=1e-5)]
        assert isinstance(scores[0], float) and isinstance(scores[1], float)
        expected = float(torch.sigmoid(torch.tensor(difference)))
        assert bradley_terry_probability([scores[0]], [scores[1]]) == pytest.approx(expected, abs=1e-5)


def test_a_group_is_scored_by_what_each_answer_wins_by_over_all(tmp_path: Path) -> None:
    model, backbone, head = published(tmp_path)
    chat = ({"role": "system", "content": "be kind"}, {"role": "user", "content": "say"})
    answers = ("one", "two", "<|candidate1|>three")
    item = Item("rendered chat of say", answers, messages=chat)
    (scores,) = PairModel(PairModelConfig(model=model, dtype="float32", batch_tokens=50)).score([item])
    for place, answer in enumerate(answers):
        margins = [
            plainly(model, backbone, head, "say", answer, other) - plainly(model, backbone, head, "say", other, answer)
            for other in answers
        ]
        assert scores[place] == pytest.approx(sum(margins) / 2 / len(answers), abs=1e-5)


def test_one_answer_alone_is_a_failure_and_a_prompt_without_end_leaves_room_for_both(tmp_path: Path) -> None:
    model, _, _ = published(tmp_path)
    reward = PairModel(PairModelConfig(model=model, dtype="float32", max_tokens=24, max_prompt_tokens=20))
    alone, long = reward.score([Item("say", ("a",)), Item("say " * 50, ("a " * 50, "b " * 50))])
    assert isinstance(alone[0], RewardFailure) and "one answer alone" in alone[0].message
    assert all(isinstance(score, float) for score in long)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cand2_prefix_id": 3}, r"does not know <\|candidate2\|> as 3"),
        ({"architectures": ["DebertaV2ForSequenceClassification"]}, "not DebertaV2PairRM"),
    ],
)
def test_what_is_no_pair_model_says_so(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    model, _, _ = published(tmp_path, **changes)
    with pytest.raises(ValueError, match=words):
        PairModel(PairModelConfig(model=model))


def test_a_head_that_is_not_there_is_named_and_reward_model_shows_the_way(tmp_path: Path) -> None:
    model, backbone, _ = published(tmp_path)
    with pytest.raises(ValueError, match=r"it is \{name: pair_model\}"):
        RewardModel(RewardModelConfig(model=model))
    weights = {f"pretrained_model.{name}": tensor.contiguous() for name, tensor in backbone.state_dict().items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks weights \(head_layer\.1\.weight"):
        PairModel(PairModelConfig(model=model))
