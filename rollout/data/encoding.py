"""Texts to token ids: chat templates, plain templates, demonstrations.

Given mapped rows and a tokenizer; gives the prompts that a model continues, and the responses that it may learn.
Prompt and response are encoded apart, as in generation, so a token never spans both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from raylign.rollout.data.chats import Message
from raylign.rollout.data.mapping import MappedRow, row_name
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
        self._end_id = tokenizer.eos_token_id if end_token else None
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
                self._token_ids[index] = with_end(token_ids, self._end_id)
        known = [self._token_ids[index] for index in indexes]
        return [token_ids for token_ids in known if token_ids is not None]

    def length_bounds(self) -> NDArray[np.int64]:
        """Upper bounds of the numbers of tokens. No token is less than an ASCII character (others may be split)."""
        return np.array([len(text) + 2 if text.isascii() else UNBOUNDED for text in self.texts], dtype=np.int64)

    def least_lengths(self, limit: int) -> NDArray[np.int64]:
        """Lower bounds of the numbers of tokens, by the longest token that there is; 0 where they cannot matter.

        A tokenizer takes half a minute for a text of 2 MB, which no context holds.
        """
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        least = np.zeros(len(self.texts), np.int64)
        if backend is None:
            return least
        longest = max(map(len, self._tokenizer.get_vocab()), default=1)
        for index, text in enumerate(self.texts):
            if len(text) > limit * longest:
                # A normalizer may drop blanks, and write up to four characters as one.
                size = len(text) if backend.normalizer is None else sum(map(len, text.split())) // 4
                least[index] = size // longest
        return least


def with_end(token_ids: Sequence[int], end_id: int | None) -> IntArray:
    """Token ids with the end token after them: once, also where the text was written with it."""
    end = [] if end_id is None or list(token_ids[-1:]) == [end_id] else [end_id]
    return np.array([*token_ids, *end], dtype=np.int32)


def joint_lengths(parts: Sequence[EncodedTexts], limit: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Tokens of each row's parts together, exact above the limit and an upper bound below it; and which rows were not
    encoded because their characters alone are too many (lengths are then lower bounds)."""
    lengths = np.sum([part.length_bounds() for part in parts], axis=0)
    least = np.sum([part.least_lengths(limit) for part in parts], axis=0)
    is_huge = least > limit
    doubtful = np.flatnonzero((lengths > limit) & ~is_huge)
    encoded = [part.batch(doubtful.tolist()) for part in parts]
    lengths[doubtful] = [sum(map(len, row)) for row in zip(*encoded, strict=True)]
    return np.where(is_huge, least, lengths), is_huge


def render_prompts(tokenizer: PreTrainedTokenizerBase, mapped: Sequence[MappedRow], config: DataConfig) -> list[str]:
    """Rows through the chat template, or through a plain one with `{prompt}`."""
    if config.template == "chat":
        texts = [_render_chat(tokenizer, item, config.source) for item in mapped]
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


def render_answer(
    tokenizer: PreTrainedTokenizerBase, item: MappedRow, answer: Message, prompt: str, source: str
) -> str:
    """An answer that calls tools or thinks, as the chat template writes it after the prompt."""
    whole = render_whole(tokenizer, item, answer, source)
    if not whole.startswith(prompt):
        raise ValueError(
            f"{source}, {row_name(item.index)}: the chat template writes another chat before this answer than before a "
            f"sampled one ({_difference(prompt, whole)}), so the answer cannot be learned"
        )
    text = whole[len(prompt) :]
    end = str(tokenizer.eos_token)
    for call in answer.get("tool_calls", ()):
        if call["function"]["name"] not in text:
            raise ValueError(
                f"{source}, {row_name(item.index)}: the chat template of {tokenizer.name_or_path!r} does not write "
                "tool calls; use a model whose template does"
            )
    return text[: text.index(end)] if end in text else text.rstrip("\n")


def render_whole(tokenizer: PreTrainedTokenizerBase, item: MappedRow, answer: Message, source: str) -> str:
    """The chat with its answer, as the template writes a past one."""
    return _apply_template(tokenizer, item, [*item.messages, answer], source, add_generation_prompt=False)


def _difference(prompt: str, whole: str) -> str:
    """Where two texts part, in words."""
    place = next(
        (n for n, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), min(len(prompt), len(whole))
    )
    return f"{prompt[place : place + 40]!r} against {whole[place : place + 40]!r}"


def _render_chat(tokenizer: PreTrainedTokenizerBase, item: MappedRow, source: str) -> str:
    """A chat as the tokenizer's own template writes it, up to where the assistant begins to speak."""
    text = _apply_template(tokenizer, item, item.messages, source, add_generation_prompt=True)
    for message in item.messages:
        for call in message.get("tool_calls", ()):
            if call["function"]["name"] not in text:
                raise ValueError(
                    f"{source}, {row_name(item.index)}: the chat template of {tokenizer.name_or_path!r} does not write "
                    "tool calls; use a model whose template does"
                )
    return text


def _apply_template(
    tokenizer: PreTrainedTokenizerBase,
    item: MappedRow,
    messages: Sequence[Message],
    source: str,
    add_generation_prompt: bool,
) -> str:
    if not tokenizer.chat_template:
        raise ValueError(
            f"the tokenizer of {tokenizer.name_or_path!r} has no chat template; set `template` to a plain one, such "
            "as '{prompt}'"
        )
    from jinja2.exceptions import TemplateError

    try:
        return str(
            tokenizer.apply_chat_template(
                list(messages), tools=item.tools, add_generation_prompt=add_generation_prompt, tokenize=False
            )
        )
    except (TemplateError, TypeError) as error:
        # Templates refuse chats themselves, for instance two user turns in a row or a system message.
        raise ValueError(f"{source}, {row_name(item.index)}: the chat template refuses it: {error}") from error
