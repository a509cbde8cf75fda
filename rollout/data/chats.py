"""Chats as programs write them, in the one form that chat templates read.

Given the cell of a row: a list of `role`/`content` (OpenAI, TRL, verl) or `from`/`value` (ShareGPT), or that list as
JSON text; gives messages with text content, tool calls with their arguments as objects. Whatever would be lost on the
way (an image, an unknown role) is a ValueError that names it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from raylign.rollout.data.json_lines import check_encodable

Message = dict[str, Any]
"""`role` and `content`, both text; further keys only of `KEPT`."""

KEPT = ("name", "tool_calls", "tool_call_id", "reasoning_content")
"""What a message may hold beside role and content, and templates read."""
SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "bot": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
    "function_call": "assistant",
}


def is_chat(cell: Any) -> bool:
    """Whether a cell holds a chat, as a list or as its JSON text."""
    cell = from_json_text(cell)
    return isinstance(cell, Sequence) and not isinstance(cell, str) and bool(cell) and all(map(is_message, cell))


def is_message(value: Any) -> bool:
    """Whether a value is one message of a chat."""
    if not isinstance(value, Mapping):
        return False
    return ("role" in value and ("content" in value or "tool_calls" in value)) or ("from" in value and "value" in value)


def is_sharegpt(cell: Any) -> bool:
    """Whether a chat is written with `from` and `value`."""
    return "from" in from_json_text(cell)[0]


def from_json_text(cell: Any) -> Any:
    """A list or object that was stored as JSON text; everything else as it is."""
    if not isinstance(cell, str) or not cell.lstrip().startswith(("[{", "[ {", '{"', "[\n")):
        return cell
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    return value if isinstance(value, (list, dict)) else cell


def _decoded(cell: Any) -> Any:
    """The same; what only its escapes held back is looked at as all texts of a file were."""
    value = from_json_text(cell)
    if value is not cell:
        check_encodable(value, "its JSON text")
    return value


def read_chat(cell: Any) -> list[Message]:
    """A chat of at least one message."""
    value = _decoded(cell)
    if isinstance(value, Mapping) and is_message(value):
        value = [value]
    if isinstance(value, str) and value.lstrip().startswith("[{'"):
        raise ValueError("the chat is the text of a Python list, not JSON; write it with json.dumps")
    if not isinstance(value, (list, tuple)) or not value:
        what = f"; it is {str(value)[:80]!r}" if value else ""
        raise ValueError(f"a chat must be a non-empty list of messages{what}")
    return [_message(message, number) for number, message in enumerate(value, start=1)]


def _message(message: Any, number: int) -> Message:
    if not is_message(message):
        raise ValueError(
            f"message {number} needs `role` and `content` (or `from` and `value`), both text; it is {str(message)[:80]}"
        )
    if "role" not in message:
        return _sharegpt_message(message, number)
    role = message["role"]
    if not isinstance(role, str) or not role:
        raise ValueError(f"message {number} needs `role` and `content`, both text; its role is {role!r}")
    read: Message = {
        "role": SHAREGPT_ROLES.get(role.lower(), role),
        "content": _content(message.get("content"), message, number),
    }
    for key in KEPT:
        if message.get(key):
            read[key] = _tool_calls(message[key], number) if key == "tool_calls" else message[key]
    return read


def _sharegpt_message(message: Mapping[str, Any], number: int) -> Message:
    speaker, text = message["from"], message["value"]
    role = SHAREGPT_ROLES.get(str(speaker).lower())
    if role is None:
        raise ValueError(
            f"message {number} is from {speaker!r}; known are {', '.join(SHAREGPT_ROLES)}: rename it in the data"
        )
    if not isinstance(text, str):
        raise ValueError(f"message {number} needs a text as its `value`; it is {str(text)[:80]}")
    if speaker == "function_call":
        return {"role": "assistant", "content": "", "tool_calls": _tool_calls(text, number)}
    return {"role": role, "content": text}


def _content(content: Any, message: Mapping[str, Any], number: int) -> str:
    """Text parts are joined; null is no text where tools are called."""
    if isinstance(content, str):
        return content
    if content is None and message.get("tool_calls"):
        return ""
    if isinstance(content, (list, tuple)):
        parts = []
        for part in content:
            if isinstance(part, str):
                parts.append(part)
            elif isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
                parts.append(part["text"])
            else:
                kind = part.get("type", "?") if isinstance(part, Mapping) else type(part).__name__
                raise ValueError(f"message {number} has a part of type {kind!r}: only text is learned from and asked")
        return "".join(parts)
    raise ValueError(f"message {number} needs `role` and `content`, both text; its content is {str(content)[:80]!r}")


def _tool_calls(calls: Any, number: int) -> list[dict[str, Any]]:
    """Calls with arguments as objects: templates write them as JSON themselves, and a text would be quoted twice."""
    calls = _decoded(calls)
    read = []
    for call in [calls] if isinstance(calls, Mapping) else calls:
        function = dict(call.get("function") or call) if isinstance(call, Mapping) else {}
        if not isinstance(function.get("name"), str):
            raise ValueError(f"message {number} has a tool call without a name: {str(call)[:80]}")
        arguments = without_nulls(_decoded(function.get("arguments") or {}))
        kept = {key: call[key] for key in ("id",) if call.get(key)}
        read.append({**kept, "type": "function", "function": {"name": function["name"], "arguments": arguments}})
    return read


def read_tools(cell: Any) -> list[Any] | None:
    """The tools that a chat may call, as their JSON schemas; None where there are none."""
    value = _decoded(cell)
    if not value:
        return None
    if not isinstance(value, (list, tuple)) or not all(isinstance(tool, Mapping) for tool in value):
        raise ValueError(f"tools must be a list of JSON schemas, or that as JSON text; they are {str(cell)[:80]!r}")
    return [without_nulls(tool) for tool in value]


def without_nulls(value: Any) -> Any:
    """Tables of columns give every object the keys of all others, as nulls; no tool wants those."""
    if isinstance(value, Mapping):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, (list, tuple)):
        return [without_nulls(inner) for inner in value]
    return value
