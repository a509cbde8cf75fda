"""Formats of preference data sets, turned into columns.

Given rows as they are published; gives rows with `prompt` (text) or `prompt_messages` (chat), `chosen`, `rejected`, and
what else the row held.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any, Literal

from raylign.rollout.mapping import row_name
from raylign.rollout.sources import Row
from raylign.rollout.templates import check_messages

PairFormat = Literal["columns", "dialogues", "messages", "best_worst"]
ASSISTANT_TAG = "\n\nAssistant:"


def pair_rows(format: PairFormat, rows: Sequence[Row]) -> list[Row]:
    """Rows with the columns; an error names the row that does not fit."""
    read = {"dialogues": _dialogues, "messages": _messages, "best_worst": _best_worst}[format]
    expanded: list[Row] = []
    for index, row in enumerate(rows):
        try:
            expanded += read(row)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{row_name(index)} is no pair in the format `{format}`: {error}") from error
    return expanded


def _dialogues(row: Row) -> list[Row]:
    """Both dialogues are the same up to the last answer, which begins after the last assistant tag of both."""
    chosen, rejected = str(row["chosen"]), str(row["rejected"])
    num_common = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(chosen, rejected, strict=False)))
    end = chosen[:num_common].rfind(ASSISTANT_TAG)
    if end < 0:
        raise ValueError("the two dialogues share no assistant's turn to answer in")
    end += len(ASSISTANT_TAG)
    return [{**row, "prompt": chosen[:end], "chosen": chosen[end:], "rejected": rejected[end:]}]


def _messages(row: Row) -> list[Row]:
    """Chats that end in the assistant's answer; equal up to it."""
    chosen, rejected = check_messages(row["chosen"]), check_messages(row["rejected"])
    if chosen[:-1] != rejected[:-1] or not chosen[:-1]:
        raise ValueError("the two chats must be the same up to their last message")
    if {chosen[-1]["role"], rejected[-1]["role"]} != {"assistant"}:
        raise ValueError("both chats must end in an assistant's message")
    texts = {"chosen": chosen[-1]["content"], "rejected": rejected[-1]["content"]}
    return [{**row, "prompt_messages": chosen[:-1], **texts}]


def _best_worst(row: Row) -> list[Row]:
    """{prompt: {"responses": […], "pairs": [[best, worst], …]}}, several prompts in an object allowed."""
    rows: list[Row] = []
    for prompt, entry in row.items():
        responses: list[Any] = entry["responses"]
        for best, worst in entry["pairs"]:
            rows.append({"prompt": prompt, "chosen": str(responses[best]), "rejected": str(responses[worst])})
    return rows
