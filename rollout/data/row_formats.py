"""What rows are: texts by templates, chats, or the columns of a known program.

Given a `DataConfig` and rows as they were read; gives a config whose keys read them, the rows (a known program's with
the columns that those keys name) and the found format in words. Where `format` says what they are, nothing is guessed;
a key that was set by hand is never replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from raylign.rollout.data.chats import is_chat, is_sharegpt, read_chat
from raylign.rollout.data.mapping import row_name
from raylign.rollout.data.pair_chats import has_chat_answers, pairs_of_chats
from raylign.rollout.data.templates import Template, is_missing, look_up

if TYPE_CHECKING:
    from raylign.rollout.data.config import DataConfig

Row = dict[str, Any]

CHAT_NAMES = ("messages", "conversations", "conversation", "chat", "dialogue", "dialog", "prompt")
"""Looked at first where several columns hold chats."""
NUM_PROBED = 50
"""Filled cells of a column that its kind is told by."""


@dataclass(frozen=True)
class FoundFormat:
    """Config and rows that fit each other."""

    config: DataConfig
    rows: Sequence[Row]
    words: str
    """Empty where the config says all by itself."""


def find_format(config: DataConfig, rows: Sequence[Row], as_pairs: bool) -> FoundFormat:
    """`as_pairs`: `chosen` and `rejected` are read too."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    words: list[str] = []
    is_only_pairs = {"chosen", "rejected"} <= set(columns) and not {"prompt", "question", *CHAT_NAMES} & set(columns)
    is_chats = config.format != "columns" and has_chat_answers(config, rows)
    if is_chats and (as_pairs or is_only_pairs or config.pairs.format == "messages"):
        rows, config, unlike = pairs_of_chats(config, rows)
        words = ["pairs of chats", unlike] if unlike else ["pairs of chats"]
        return FoundFormat(_without_reference(config, columns), rows, ", ".join(words))
    if config.format == "alpaca" or (config.format == "auto" and _is_alpaca(config, columns)):
        rows, config = _alpaca(config, rows, columns)
        words.append("Alpaca (instruction, input, output)")
    elif chat_column := _chat_column(config, rows, columns):
        config = config.model_copy(update={"messages": chat_column})
        cell = _filled(rows, chat_column, 1)
        written = "ShareGPT chats" if cell and is_chat(cell[0]) and is_sharegpt(cell[0]) else "chats"
        stored = ", stored as JSON text" if cell and isinstance(cell[0], str) else ""
        words.append(f"{written} in column {chat_column!r}{stored}")
        if written == "ShareGPT chats" and _filled(rows, "system", 1):
            rows = _with_system(rows, chat_column)
            words.append("system messages in column 'system'")
    elif _is_default(config, "prompt") and "question" not in columns and "prompt" in columns:
        config = config.model_copy(update={"prompt": "{prompt}"})
        words.append("prompts in column 'prompt'")
    if config.messages and config.tools is None and _filled(rows, "tools", 1):
        config = config.model_copy(update={"tools": "tools"})
        words.append("tools in column 'tools'")
    if (words or config.messages) and _is_default(config, "reference") and "answer" not in columns:
        config, said = _with_reference(config, rows, columns)
        words += said
    if as_pairs:
        config = _without_reference(config, columns)
    if config.messages is not None and config.template != "chat":
        raise ValueError(
            f"{config.source}: column {config.messages!r} holds chats, which `template: {config.template}` has no "
            "place for; use `template: chat`, or name a column of texts by `prompt`"
        )
    return FoundFormat(config, rows, ", ".join(words))


def _chat_column(config: DataConfig, rows: Sequence[Row], columns: Sequence[str]) -> str | None:
    """The column that holds chats; None where the rows are texts."""
    if config.messages is not None:
        return config.messages
    if config.format == "columns":
        return None
    prompt = Template(config.prompt)
    if prompt.only_column and _holds_chats(rows, prompt.only_column):
        return prompt.only_column
    if all(column.split(".")[0] in columns for column in prompt.columns) or not _is_default(config, "prompt"):
        found = None
    else:
        candidates = [*(name for name in CHAT_NAMES if name in columns), *columns]
        answers = {"chosen", "rejected", "completion", "tools"}
        found = next((name for name in candidates if name not in answers and _holds_chats(rows, name)), None)
    if found is None and config.format in ("messages", "sharegpt"):
        raise ValueError(
            f"{config.source}: format is {config.format}, and no column holds chats; its columns are "
            f"{', '.join(columns)}; name one by data.messages"
        )
    return found


def _holds_chats(rows: Sequence[Row], column: str) -> bool:
    cells = _filled(rows, column, NUM_PROBED)
    return bool(cells) and any(is_chat(cell) for cell in cells)


def _filled(rows: Sequence[Row], column: str, count: int) -> list[Any]:
    """The first cells of a column (or of a path into nested rows) that hold anything."""
    cells = (_cell(row, column) for row in rows)
    return list(islice((cell for cell in cells if not is_missing(cell) and cell not in ("", [], {})), count))


def _cell(row: Row, column: str) -> Any:
    try:
        return look_up(row, column)
    except ValueError:
        return None


def _is_default(config: DataConfig, key: str) -> bool:
    return bool(getattr(config, key) == type(config).model_fields[key].default)


def _is_alpaca(config: DataConfig, columns: Sequence[str]) -> bool:
    has_columns = "instruction" in columns and "output" in columns and "question" not in columns
    return has_columns and _is_default(config, "prompt") and config.messages is None


def _alpaca(config: DataConfig, rows: Sequence[Row], columns: Sequence[str]) -> tuple[list[Row], DataConfig]:
    """Instruction and input become the user's message; `system` and `history` stand before it."""
    read: list[Row] = []
    for index, row in enumerate(rows):
        parts = [row.get("instruction"), row.get("input")]
        if not all(isinstance(part, str) for part in parts if not is_missing(part)) or is_missing(parts[0]):
            raise ValueError(f"{config.source}, {row_name(index)}: instruction and input must be texts, not {parts}")
        question = "\n\n".join(part for part in parts if isinstance(part, str) and part.strip())
        read.append({**row, "question": question})
    update: dict[str, Any] = {"prompt": "{question}"}
    if _is_default(config, "reference") and "answer" not in columns:
        update["reference"] = "{output}"
    if any(_filled(rows, name, 1) for name in ("system", "history")):
        for row in read:
            earlier = [
                (role, text)
                for turn in row.get("history") or []
                for role, text in zip(("user", "assistant"), turn, strict=True)
            ]
            system = [("system", row["system"])] if row.get("system") else []
            turns = [*system, *earlier, ("user", row["question"])]
            row["question"] = [{"role": role, "content": text} for role, text in turns]
        update["messages"] = "question"
    return read, config.model_copy(update=update)


def _with_system(rows: Sequence[Row], column: str) -> list[Row]:
    """ShareGPT rows keep their system message in a column of its own."""
    changed = []
    for row in rows:
        chat = read_chat(row[column]) if is_chat(row.get(column)) else None
        if chat and isinstance(row.get("system"), str) and row["system"] and chat[0]["role"] != "system":
            row = {**row, column: [{"role": "system", "content": row["system"]}, *chat]}
        changed.append(row)
    return changed


def _with_reference(config: DataConfig, rows: Sequence[Row], columns: Sequence[str]) -> tuple[DataConfig, list[str]]:
    """What answers are, where the rows' program has a place of its own for them."""
    if _filled(rows, "reward_model.ground_truth", 1):
        update, words = {"reference": "{reward_model.ground_truth}"}, ["references in reward_model.ground_truth (verl)"]
    elif "completion" in columns:
        update, words = {"reference": "{completion}"}, ["answers in column 'completion'"]
    elif config.messages is not None:
        return config.model_copy(update={"reference": None}), []
    else:
        return config, []
    return config.model_copy(update=update), words


def _without_reference(config: DataConfig, columns: Sequence[str]) -> DataConfig:
    """Pairs need none."""
    missing = config.reference is not None and _is_default(config, "reference") and "answer" not in columns
    return config.model_copy(update={"reference": None}) if missing else config
