"""A tiny model on demand: loads anywhere, equal from equal seeds, never over something that is there.

Given small configs; shows the folders they make.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from raylign.jobs.init_model import END_TOKEN, PAD_TOKEN, InitModelConfig, init_model
from raylign.rollout.data.config import DataConfig
from raylign.rollout.model_folder import check_model_folder, load_tokenizer

SUMS = DataConfig(source="reasoning_gym:chain_sum?min_digits=1&max_digits=2", num_generated=200)


def make(folder: Path, **options: Any) -> Path:
    return init_model(InitModelConfig(output=folder, data=SUMS, **options))


def test_the_model_loads_in_transformers_and_is_tiny(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = make(tmp_path / "tiny")
    check_model_folder(folder)
    tokenizer = load_tokenizer(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.model_type == "qwen3"
    assert 500_000 < sum(parameter.numel() for parameter in model.parameters()) < 10_000_000
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id


def test_the_tokenizer_splits_digits_and_knows_chats_and_any_text(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(make(tmp_path / "tiny"))
    assert (tokenizer.eos_token, tokenizer.pad_token) == (END_TOKEN, PAD_TOKEN)
    token_ids = tokenizer("12 + 345")["input_ids"]
    assert [tokenizer.decode([token_id]).strip() for token_id in token_ids if token_id][-3:] == ["3", "4", "5"]
    text = "é 漢字 🙂 \n\t 3.50 <b>"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    chat = [{"role": "user", "content": "1 + 1"}]
    rendered = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert rendered == "<|im_start|>user\n1 + 1<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer(rendered)["input_ids"].count(tokenizer.eos_token_id) == 1


def test_equal_configs_give_equal_bytes_and_another_seed_other_weights(tmp_path: Path) -> None:
    first, second, other = make(tmp_path / "a"), make(tmp_path / "b"), make(tmp_path / "c", seed=1)
    names = sorted(file.name for file in first.iterdir())
    assert names == sorted(file.name for file in second.iterdir())
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)
    assert (first / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()
    assert (first / "tokenizer.json").read_bytes() == (other / "tokenizer.json").read_bytes()


def test_untied_embeddings_are_saved_apart(tmp_path: Path) -> None:
    from safetensors import safe_open

    folder = make(tmp_path / "tiny", tie_word_embeddings=False)
    with safe_open(folder / "model.safetensors", "np") as file:
        assert {"lm_head.weight", "model.embed_tokens.weight"} <= set(file.keys())


def test_an_existing_folder_is_named_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ValueError, match=f"{tmp_path} exists"):
        make(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["note.txt"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no task"):
        init_model(InitModelConfig(output=tmp_path / "x" / "tiny", data=DataConfig(source="reasoning_gym:zzzz")))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 64}, "width 64 over 4 heads"),
        ({"num_kv_heads": 3}, "not a multiple of num_kv_heads 3"),
        ({"vocabulary_size": 100}, "vocabulary_size"),
    ],
)
def test_shapes_that_no_engine_runs_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        InitModelConfig(**options)


def test_merged_digits_let_the_tokenizer_join_them(tmp_path: Path) -> None:
    # Every operand from 10 to 99: numbers such as " 12" come often enough to become one token.
    tokenizer = load_tokenizer(make(tmp_path / "tiny", digits="merged", vocabulary_size=400))
    assert len(tokenizer(" 12")["input_ids"]) < len(load_tokenizer(make(tmp_path / "split"))(" 12")["input_ids"])
