"""Reward models whose padding token is the end token, or is missing: the score stands at the last real token.

Given tiny models of two families and pairs whose answers end in the end token; compares training, serving and the
saved folder under transformers alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from raylign.learners.algorithms.preference.reward_model import RewardModelTrainingConfig
from raylign.learners.engines.config import LearnerConfig
from raylign.learners.examples.example import Example
from raylign.learners.learner import Learner
from raylign.rewards.base import Item
from raylign.rewards.reward_model import RewardModel, RewardModelConfig
from raylign.rollout.sample import PreferencePair, Prompt

END, PADDING = "$", "_"
LETTERS = "abcdefghij"
END_ID = 1
ANSWERS = ["b", "cccc", "d", "efgh", "ij", "hgfedcba"]
"""Of three pairs, to the prompt "a"."""


def save_model(folder: Path, family: str, pad_token: str | None) -> Path:
    vocabulary = {token: number for number, token in enumerate([PADDING, END, *LETTERS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token=PADDING))
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token=END, pad_token=pad_token).save_pretrained(folder)
    pad_id = None if pad_token is None else vocabulary[pad_token]
    shared: dict[str, Any] = {"vocab_size": 12, "bos_token_id": None, "eos_token_id": END_ID, "pad_token_id": pad_id}
    torch.manual_seed(0)
    model: LlamaForCausalLM | GPT2LMHeadModel
    if family == "llama":
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        model = LlamaForCausalLM(LlamaConfig(**sizes, **shared))
    else:
        model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=32, **shared))
    model.save_pretrained(folder)
    return folder


def ids(text: str) -> np.ndarray:
    return np.array([2 + LETTERS.index(letter) for letter in text], np.int32)


def pairs() -> list[PreferencePair]:
    ended = [np.append(ids(answer), END_ID).astype(np.int32) for answer in ANSWERS]
    return [
        PreferencePair(Prompt(str(n), n, "a", ids("a")), ended[2 * n], ended[2 * n + 1], "", "")
        for n in range(len(ANSWERS) // 2)
    ]


def last_scores(learner: Learner, examples: list[Example]) -> list[float]:
    return [float(logps[-1]) for logps in learner.logprobs(examples)]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("pad_token", [None, END, PADDING])
def test_an_answer_is_scored_at_its_end_token_in_training_serving_and_the_saved_folder(
    pad_token: str | None, family: str, tmp_path: Path
) -> None:
    start = save_model(tmp_path / "start", family, pad_token)
    algorithm = RewardModelTrainingConfig()
    config = LearnerConfig(learning_rate=1e-2, threads_per_rank=1, layout="padded")
    learner = Learner(config, str(start), algorithm.build_objective(), 1.0, 4, 0, tmp_path / "debug")
    examples = algorithm.build_examples().from_pairs(pairs())
    for _ in range(4):
        learner.update(examples)
    expected = last_scores(learner, examples)
    assert len({round(score, 4) for score in expected}) == len(ANSWERS)
    alone = [last_scores(learner, [example])[0] for example in examples]
    assert alone == pytest.approx(expected, abs=1e-5)

    learner.save_model(tmp_path / "scorer")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "scorer").eval()
    with torch.no_grad():
        rows = [torch.tensor([[*ids("a"), *ids(answer), END_ID]]) for answer in ANSWERS]
        assert [float(model(row).logits) for row in rows] == pytest.approx(expected, abs=1e-5)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "scorer")
        if pad_token == PADDING:
            batch = tokenizer([f"a{answer}{END}" for answer in ANSWERS], padding=True, return_tensors="pt")
            together = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0].tolist()
            assert together == pytest.approx(expected, abs=1e-5)

    item = Item("a", tuple(ANSWERS), finished=(True,) * len(ANSWERS))
    for batch_tokens in (1, 10_000):
        settings = RewardModelConfig(model=str(tmp_path / "scorer"), batch_tokens=batch_tokens, device="cpu")
        assert RewardModel(settings).score([item])[0] == pytest.approx(expected, abs=1e-5)
