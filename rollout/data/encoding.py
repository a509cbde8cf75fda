"""Texts to token ids: chat templates, plain templates, demonstrations.

Given mapped rows and a tokenizer; gives the prompts that a model continues, and the responses that it may learn.
Prompt and response are encoded apart, as in generation, so a token never spans both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from raylign.rollout.data.mapping import MappedRow, row_name
from raylign.rollout.data.templates import Message
from raylign.rollout.sample import IntArray

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from raylign.rollout.data.config import DataConfig

TEXTS_AT_ONCE = 1000
UNBOUNDED = 2**40


class EncodedTexts:
    """Texts and their token ids, which are computed when first asked for: start-up stays quick on long data sets."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], end_token: bool = False) -> None:
        self.texts = texts
        self._tokenizer = tokenizer
        self._end = [tokenizer.eos_token_id] if end_token else []
        self._token_ids: list[IntArray | None] = [None] * len(texts)

    def __len__(self) -> int:
        return len(self.texts)

    def token_ids(self, index: int) -> IntArray:
        """Token ids of a text as it stands: nothing is put before it, nothing is cut off."""
        return self.batch([index])[0]

    def batch(self, indexes: Sequence[int]) -> list[IntArray]:
        """Token ids of several texts; those not yet known are encoded together."""
        unknown = [index for index in dict.fromkeys(indexes) if self._token_ids[index] is None]
        for start in range(0, len(unknown), TEXTS_AT_ONCE):
            part = unknown[start : start + TEXTS_AT_ONCE]
            encoded = self._tokenizer(
                [self.texts[index] for index in part],
                add_special_tokens=False,
                return_attention_mask=False,
                verbose=False,
            )
            for index, token_ids in zip(part, encoded["input_ids"], strict=True):
                self._token_ids[index] = np.array([*token_ids, *self._end], dtype=np.int32)
        known = [self._token_ids[index] for index in indexes]
        return [token_ids for token_ids in known if token_ids is not None]

    def length_bounds(self) -> NDArray[np.int64]:
        """Upper bounds of the numbers of tokens. No token is less than an ASCII character (others may be split)."""
        return np.array([len(text) + 2 if text.isascii() else UNBOUNDED for text in self.texts], dtype=np.int64)


def joint_lengths(parts: Sequence[EncodedTexts], limit: int) -> NDArray[np.int64]:
    """Tokens of each row's parts together: exact above the limit, an upper bound below it."""
    lengths = np.sum([part.length_bounds() for part in parts], axis=0)
    doubtful = np.flatnonzero(lengths > limit)
    encoded = [part.batch(doubtful.tolist()) for part in parts]
    lengths[doubtful] = [sum(map(len, row)) for row in zip(*encoded, strict=True)]
    return lengths


def render_prompts(tokenizer: PreTrainedTokenizerBase, mapped: Sequence[MappedRow], config: DataConfig) -> list[str]:
    """Rows through the chat template, or through a plain one with `{prompt}`."""
    if config.template == "chat":
        texts = _render_chats(tokenizer, mapped, config.source)
    else:
        start = start_of_text(tokenizer)
        texts = [config.template.replace("{prompt}", item.messages[-1]["content"]) for item in mapped]
        # rows that we wrote ourselves (best of n) hold prompts as they were fed
        texts = [text if start and text.startswith(start) else start + text for text in texts]
    for text, item in zip(texts, mapped, strict=True):
        if not text:
            raise ValueError(f"{config.source}, {row_name(item.index)}: the prompt is empty")
    return texts


def start_of_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """The token that this tokenizer puts before every text (Llama's `<s>`), or nothing; chat templates write it."""
    starts_with_it = tokenizer.bos_token_id is not None and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    return str(tokenizer.bos_token) if starts_with_it else ""


def _render_chats(tokenizer: PreTrainedTokenizerBase, mapped: Sequence[MappedRow], source: str) -> list[str]:
    """Chats as the tokenizer's own template writes them, up to where the assistant begins to speak."""
    if not tokenizer.chat_template:
        raise ValueError(
            f"the tokenizer of {tokenizer.name_or_path!r} has no chat template; set `template` to a plain one, such "
            "as '{prompt}'"
        )
    from jinja2.exceptions import TemplateError

    texts: list[str] = []
    for item in mapped:
        messages: list[Message] = item.messages
        try:
            text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except TemplateError as error:
            # Templates refuse chats themselves, for instance two user turns in a row or a system message.
            raise ValueError(f"{source}, {row_name(item.index)}: the chat template refuses it: {error}") from error
        texts.append(str(text))
    return texts
