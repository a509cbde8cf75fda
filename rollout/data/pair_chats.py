"""Preference pairs whose answers are chats.

Given rows whose `chosen` and `rejected` are lists of messages (or one message each); gives rows with the chat before
the answers in one column and the two answering messages in theirs. The prompt stands in a column of its own (TRL's
explicit prompt, ShareGPT's `conversations`), in both chats (implicit), or in both places.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from raylign.rollout.data.chats import Message, is_chat, is_message, read_chat
from raylign.rollout.data.mapping import row_name
from raylign.rollout.data.templates import Template, is_missing

if TYPE_CHECKING:
    from raylign.rollout.data.config import DataConfig

Row = dict[str, Any]

ANSWERED_CHAT = "prompt_messages"
"""The column that the chat before the answers is put in."""
PROMPT_COLUMNS = ("prompt", "messages", "conversations", "conversation", "question")


def has_chat_answers(config: DataConfig, rows: Sequence[Row]) -> bool:
    """Whether chosen answers are chats."""
    if config.pairs.format not in ("columns", "messages"):
        return False
    column = Template(config.pairs.chosen).only_column
    return config.pairs.format == "messages" or any(
        column is not None and (is_chat(row.get(column)) or is_message(row.get(column))) for row in rows[:50]
    )


def pairs_of_chats(config: DataConfig, rows: Sequence[Row]) -> tuple[list[Row], DataConfig, str]:
    """The rows, the config that reads them, and words on a prompt that both chats contradict; an error names the row
    that does not fit."""
    sides = [Template(text).only_column for text in (config.pairs.chosen, config.pairs.rejected)]
    if None in sides:
        raise ValueError(
            f"{config.source}: pairs.chosen is {config.pairs.chosen!r} and pairs.rejected {config.pairs.rejected!r}: "
            "of chats, name the columns alone, for instance {chosen}"
        )
    chosen, rejected = (str(side) for side in sides)
    named = config.messages or Template(config.prompt).only_column
    columns = {column for row in rows[:50] for column in row}
    asked = next((name for name in (named, *PROMPT_COLUMNS) if name in columns - {chosen, rejected}), None)
    read: list[Row] = []
    num_unlike = 0
    for index, row in enumerate(rows):
        try:
            prompt, answers = _split(row.get(asked or ""), read_chat(row.get(chosen)), read_chat(row.get(rejected)))
        except ValueError as error:
            raise ValueError(
                f"{config.source}, {row_name(index)} is no pair in the format `messages`: {error}"
            ) from error
        num_unlike += _is_unlike(row.get(asked or ""), prompt)
        texts = [answer["content"] if answer.keys() == {"role", "content"} else [answer] for answer in answers]
        read.append({**row, ANSWERED_CHAT: prompt, chosen: texts[0], rejected: texts[1]})
    words = f"column {asked!r} is not read: both chats say another prompt in {num_unlike} of {len(rows)} rows"
    return read, config.model_copy(update={"messages": ANSWERED_CHAT}), words if num_unlike else ""


def _is_unlike(asked: Any, prompt: list[Message]) -> bool:
    """Whether a text beside two whole dialogues is none of what they say."""
    return isinstance(asked, str) and not is_chat(asked) and all(asked.strip() != m["content"].strip() for m in prompt)


def _split(asked: Any, chosen: list[Message], rejected: list[Message]) -> tuple[list[Message], list[Message]]:
    """The chat that both answer, and the two answers."""
    before: list[Message] = []
    if not is_missing(asked) and asked != []:
        is_text = isinstance(asked, str) and not is_chat(asked)
        before = [{"role": "user", "content": asked}] if is_text else read_chat(asked)
    if before and chosen[: len(before)] == before and rejected[: len(before)] == before:
        chosen, rejected = chosen[len(before) :], rejected[len(before) :]
        if not chosen or not rejected:
            raise ValueError("the prompt is all that there is of an answer")
    elif chosen[0]["role"] != "assistant" or rejected[0]["role"] != "assistant":
        before = []  # both are whole dialogues, whatever else the row says
    if chosen[:-1] != rejected[:-1]:
        raise ValueError("the two chats must be the same up to their last message")
    if {chosen[-1]["role"], rejected[-1]["role"]} != {"assistant"}:
        raise ValueError("both chats must end in an assistant's message")
    if not before and not chosen[:-1]:
        raise ValueError("the two chats must be the same up to their last message, and have one; there is no prompt")
    return [*before, *chosen[:-1]], [chosen[-1], rejected[-1]]
