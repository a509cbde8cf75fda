"""What tests of data share: a tokenizer trained on the spot, and files of rows.

Given words and rows; gives a tokenizer with the chat template of `init-model`, and paths.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raylign.jobs.init_model import CHAT_TEMPLATE, END_TOKEN, PAD_TOKEN, train_tokenizer

TOOL_TEMPLATE = (
    "{% if tools %}{{ 'tools: ' + (tools | tojson) + '\n' }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
    "{% for call in message.get('tool_calls') or [] %}"
    "{{ '<call>' + call.function.name + ' ' + (call.function.arguments | tojson) + '</call>' }}"
    "{% endfor %}"
    "{{ '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Writes tools and the calls of them."""


def small_tokenizer(chat_template: str = CHAT_TEMPLATE) -> Any:
    from transformers import PreTrainedTokenizerFast

    trained = train_tokenizer(["one two three"], vocabulary_size=300, split_digits=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=trained, eos_token=END_TOKEN, pad_token=PAD_TOKEN, chat_template=chat_template
    )


def write_rows(path: Path, *rows: Mapping[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def prompt_text(*turns: tuple[str, str]) -> str:
    """A chat as the template of `init-model` writes it."""
    said: Sequence[str] = [f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns]
    return "".join(said) + "<|im_start|>assistant\n"
