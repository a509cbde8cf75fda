"""BERTScore with a tiny encoder made here, against the matches worked out from its states."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, BertConfig, BertModel, BertTokenizerFast

from raylign.rewards.base import Graded, Item, RewardFailure
from raylign.rewards.bert_score import BertScoreConfig, BertScoreReward

WORDS = ["the", "cat", "sat", "on", "mat", "a", "dog", "ran", "far", "away"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    BertTokenizerFast(str(vocabulary)).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=5 + len(WORDS),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=16,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def f1_by_hand(encoder: Path, text: str, reference: str, layer: int) -> float:
    """Greedy matches: [CLS] and [SEP] weigh nothing themselves, but may be matched, as in the package."""
    tokenizer = BertTokenizerFast.from_pretrained(encoder)
    model = AutoModel.from_pretrained(encoder).eval()
    states = []
    for each in (text, reference):
        with torch.no_grad():
            hidden = model(**tokenizer(each, return_tensors="pt"), output_hidden_states=True).hidden_states[layer][0]
        states.append(torch.nn.functional.normalize(hidden, dim=-1))
    similarity = states[0] @ states[1].T
    precision, recall = similarity[1:-1].max(1).values.mean(), similarity[:, 1:-1].max(0).values.mean()
    return float(2 * precision * recall / (precision + recall))


def test_scores_are_those_of_the_best_reference_by_hand(encoder: Path) -> None:
    reward = BertScoreReward(BertScoreConfig(model=str(encoder), num_layers=2, device="cpu"))
    references = ("the cat sat on the mat", "a dog ran")
    texts = (
        "the cat sat on the mat",
        "a cat ran away",
        "<think>far</think><answer>a dog</answer>",
        "",
        "<answer></answer>",
    )
    items = [Item("p", texts, references), Item("q", ("the dog",), ("the cat",)), Item("r", ("the dog",))]
    first, second, third = reward.score(items)
    assert first[0] == pytest.approx(1.0, abs=1e-5)
    for score, text in ((first[1], "a cat ran away"), (first[2], "a dog")):
        assert score == pytest.approx(max(f1_by_hand(encoder, text, each, 2) for each in references), abs=1e-4)
    assert first[3:] == [0.0, 0.0]
    assert second == [pytest.approx(f1_by_hand(encoder, "the dog", "the cat", 2), abs=1e-4)]
    assert isinstance(third[0], RewardFailure) and "no reference" in third[0].message
    assert isinstance(first[1], Graded) and first[1].parts == {"words": 4, "shortest_reference_words": 3}


def test_longer_texts_than_the_encoder_has_positions_are_cut(encoder: Path) -> None:
    reward = BertScoreReward(BertScoreConfig(model=str(encoder), num_layers=3, device="cpu"))
    (score,) = reward.score([Item("p", ("the cat " * 50,), ("the dog " * 50,))])[0]
    assert isinstance(score, float) and 0 < score <= 1


def test_an_absent_package_or_model_is_said_with_both(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ValueError, match=r"package bert-score .*a model folder or Hugging Face id; '.*none' does not load"
    ):
        BertScoreReward(BertScoreConfig(model=str(tmp_path / "none"), num_layers=1))
    with pytest.raises(ValueError, match=r"knows no layer for the model .* set num_layers"):
        BertScoreReward(BertScoreConfig(model=str(encoder)))
    with pytest.raises(ValueError, match=r"num_layers is 9: .*between 0 and 3"):
        BertScoreReward(BertScoreConfig(model=str(encoder), num_layers=9, device="cpu"))
    monkeypatch.setitem(sys.modules, "bert_score", None)
    with pytest.raises(
        ValueError, match=r"needs the package bert-score \(pip install .*\(now 'distilbert-base-uncased'"
    ):
        BertScoreReward(BertScoreConfig())
