"""The reward model: a tiny real one, batched and alone, with and without a chat template."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForSequenceClassification,
)

from raylign.rewards.base import Item
from raylign.rewards.model_place import length_buckets
from raylign.rewards.reward_model import RewardModel, RewardModelConfig

TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"


def make_model(
    folder: Path, template: str | None, num_labels: int = 1, with_head: bool = True, pad_id: int | None = 0
) -> str:
    alphabet = sorted(set("abcdefghijklmnopqrstuvwxyz []="))
    vocabulary = {letter: index for index, letter in enumerate(["<pad>", "<unk>", *alphabet])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    fast.chat_template = template
    fast.save_pretrained(folder)
    config = Qwen2Config(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_labels=num_labels,
        pad_token_id=pad_id,
    )
    torch.manual_seed(0)
    (Qwen2ForSequenceClassification if with_head else Qwen2ForCausalLM)(config).save_pretrained(folder)
    return str(folder)


def logit(model: str, text: str) -> float:
    """The model's score of `text`, with nothing of ours."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    classifier = Qwen2ForSequenceClassification.from_pretrained(model).eval()
    with torch.no_grad():
        output = classifier(torch.tensor([tokenizer(text)["input_ids"]]))
    return float(output.logits[0, 0])


def test_scores_are_those_of_each_text_alone_whatever_the_batch(tmp_path: Path) -> None:
    model = make_model(tmp_path, None)
    items = [Item("say", (" hello", " a", " something much longer than that")), Item("b", ("c",))]
    expected = [[logit(model, item.prompt + text) for text in item.completions] for item in items]
    assert len({round(value, 6) for group in expected for value in group}) == 4
    for batch_tokens in (1, 40, 10_000):
        reward = RewardModel(RewardModelConfig(model=model, batch_tokens=batch_tokens, device="cpu"))
        for scores_G, expected_G in zip(reward.score(items), expected, strict=True):
            assert scores_G == pytest.approx(expected_G, abs=1e-5)
        reward.close()


@pytest.mark.parametrize("pad_id", [None, 0, -1])
def test_a_text_that_ends_in_the_padding_token_is_scored_as_transformers_scores_it_alone(
    tmp_path: Path, pad_id: int | None
) -> None:
    model = make_model(tmp_path, None, pad_id=pad_id)
    texts = ("hello<pad>", "a", "something longer", "b<pad><pad>")
    reward = RewardModel(RewardModelConfig(model=model, device="cpu"))
    assert reward.score([Item("", texts)])[0] == pytest.approx([logit(model, text) for text in texts], abs=1e-5)


def test_chat_template_renders_prompt_and_completion(tmp_path: Path) -> None:
    model = make_model(tmp_path, TEMPLATE)
    reward = RewardModel(RewardModelConfig(model=model, device="cpu"))
    chat = ({"role": "system", "content": "be"}, {"role": "user", "content": "hi"})
    scores = reward.score([Item("hi", ("yo",)), Item("unused", ("yo",), messages=chat), Item("", ("",))])
    assert scores[0][0] == pytest.approx(logit(model, "[user]hi[assistant]yo"), abs=1e-5)
    assert scores[1][0] == pytest.approx(logit(model, "[system]be[user]hi[assistant]yo"), abs=1e-5)
    assert scores[2][0] == pytest.approx(logit(model, "[user][assistant]"), abs=1e-5)


def test_long_text_keeps_its_end(tmp_path: Path) -> None:
    model = make_model(tmp_path, None)
    reward = RewardModel(RewardModelConfig(model=model, device="cpu", max_tokens=3))
    assert reward.score([Item("abcdef", ("xyz",))])[0] == [pytest.approx(logit(model, "xyz"), abs=1e-5)]


def test_model_without_a_scalar_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has 2 labels, not one"):
        RewardModel(RewardModelConfig(model=make_model(tmp_path / "a", None, num_labels=2)))
    with pytest.raises(ValueError, match=r"lacks weights \(score.weight\)"):
        RewardModel(RewardModelConfig(model=make_model(tmp_path / "b", None, with_head=False)))
    with pytest.raises(ValueError, match="cannot be loaded"):
        RewardModel(RewardModelConfig(model=str(tmp_path / "nowhere")))


def test_a_tokenizer_that_does_not_belong_to_the_model_is_refused(tmp_path: Path) -> None:
    model = make_model(tmp_path / "a", None)
    vocabulary = {str(number): number for number in range(50)} | {"<unk>": 50}
    larger = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=larger, pad_token="0", unk_token="<unk>").save_pretrained(model)
    with pytest.raises(ValueError, match="they do not belong together"):
        RewardModel(RewardModelConfig(model=model))


def test_buckets_hold_each_row_once_within_the_budget() -> None:
    lengths = [5, 1, 9, 3, 9, 30, 2]
    batches = list(length_buckets(lengths, 20))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= 20
    assert batches[:2] == [[5], [2, 4]]
