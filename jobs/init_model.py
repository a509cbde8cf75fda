"""A tiny random model with a tokenizer of its own, made in seconds.

Given an `InitModelConfig` (where to write, which text to learn the tokenizer from, how large); gives a folder in
Hugging Face format that transformers and vLLM load. The same config gives the same bytes.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field, model_validator

from raylign.rollout.data.config import DataConfig
from raylign.rollout.data.loading import load_mapped_rows
from raylign.rollout.data.mapping import MappedRow

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD_TOKEN, START_TOKEN, END_TOKEN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

HEAD_WIDTHS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256)
"""What vLLM's attention on CPU can compute; a superset of common GPU kernels' widths."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class InitModelConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """A tiny model to start from."""

    output: Path = Path("runs/tiny-model")
    """Folder to write; must not exist."""
    data: DataConfig = DataConfig()
    """Text for the tokenizer: prompts, references and demonstrations of these rows."""
    num_layers: int = Field(4, ge=1)
    """Transformer blocks."""
    width: int = Field(128, ge=1)
    """Size of the hidden state."""
    num_heads: int = Field(4, ge=1)
    """Attention heads; width / num_heads must be a head width that vLLM knows (32, 64, …)."""
    num_kv_heads: int = Field(2, ge=1)
    """Key and value heads, shared by groups of attention heads."""
    mlp_width: int = Field(384, ge=1)
    """Inner size of the feed-forward layers."""
    vocabulary_size: int = Field(512, ge=260)
    """Most tokens the tokenizer may have; fewer where the text has no more to merge."""
    max_positions: int = Field(1024, ge=2)
    """Longest sequence."""
    tie_word_embeddings: bool = True
    """One matrix for input embeddings and output head."""
    digits: Literal["single", "merged"] = "single"
    """single: every digit is a token of its own, which makes arithmetic learnable; merged: as the text has them."""
    seed: int = Field(0, ge=0)
    """Seed of the random weights."""

    @model_validator(mode="after")
    def _check_shapes(self) -> InitModelConfig:
        if self.width % self.num_heads or self.width // self.num_heads not in HEAD_WIDTHS:
            raise ValueError(
                f"width {self.width} over {self.num_heads} heads: the quotient must be one of {HEAD_WIDTHS}"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        return self


def init_model(config: InitModelConfig) -> Path:
    """Write the model folder, say where, and return it."""
    output = config.output.expanduser().absolute()
    if output.exists():
        raise ValueError(f"output folder {output} exists; choose a new one or remove it (it is never overwritten)")
    texts = tokenizer_texts(load_mapped_rows(config.data))
    output.parent.mkdir(parents=True, exist_ok=True)
    # Written beside and renamed: a folder of that name is always whole.
    draft = output.parent / f".{output.name}-{os.getpid()}"
    draft.mkdir()
    try:
        tokenizer = train_tokenizer(texts, config.vocabulary_size, split_digits=config.digits == "single")
        vocabulary_size, pad_id, end_id = _save_tokenizer(tokenizer, draft, config.max_positions)
        _save_model(config, draft, vocabulary_size, pad_id, end_id)
        draft.rename(output)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    print(f"wrote {config.output}: a start for --model.path (it knows nothing yet)", flush=True)
    return output


def tokenizer_texts(mapped: list[MappedRow]) -> list[str]:
    """Everything that a model will read or write for these rows."""
    texts: list[str] = []
    for item in mapped:
        texts.extend(message["content"] for message in item.messages)
        texts.extend(item.references)
        if item.response is not None:
            texts.append(item.response)
    return texts


def train_tokenizer(texts: list[str], vocabulary_size: int, split_digits: bool) -> Tokenizer:
    """A byte-level BPE tokenizer: any text can be encoded, and comes back unchanged."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = [pre_tokenizers.Digits(individual_digits=True)] if split_digits else []
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[PAD_TOKEN, START_TOKEN, END_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, "system\nuser\nassistant\n"], trainer)
    return tokenizer


def _save_tokenizer(tokenizer: Tokenizer, folder: Path, max_positions: int) -> tuple[int, int, int]:
    """Save; return vocabulary size, padding id and end id."""
    from transformers import PreTrainedTokenizerFast

    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD_TOKEN,
        eos_token=END_TOKEN,
        extra_special_tokens=[START_TOKEN],
        model_max_length=max_positions,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(folder)
    return len(wrapped), wrapped.pad_token_id, wrapped.eos_token_id


def _save_model(config: InitModelConfig, folder: Path, vocabulary_size: int, pad_id: int, end_id: int) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    shape: dict[str, Any] = dict(
        vocab_size=vocabulary_size,
        hidden_size=config.width,
        intermediate_size=config.mlp_width,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        max_position_embeddings=config.max_positions,
        tie_word_embeddings=config.tie_word_embeddings,
        pad_token_id=pad_id,
        eos_token_id=end_id,
        bos_token_id=None,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        # not Qwen2: transformers would load its tokenizer class, which splits text in another way than ours was trained
        model: Any = Qwen3ForCausalLM(Qwen3Config(**shape, head_dim=config.width // config.num_heads))
    # not `save_pretrained`: it imports DeepSpeed to see whether the model is wrapped, which takes seconds and warns
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}  # a tied head once
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    GenerationConfig(eos_token_id=end_id, pad_token_id=pad_id).save_pretrained(folder)
