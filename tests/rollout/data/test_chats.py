"""Chats in every form that programs write, as prompts and demonstrations.

Given rows with a chat; shows the rendered prompt and the demonstration, or what is said of a chat that cannot be used.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raylign.rollout.data.config import DataConfig
from raylign.rollout.data.prompts import PromptSource
from tests.rollout.data.small import TOOL_TEMPLATE, assistant, prompt_text, small_tokenizer, user, write_rows

CHAT = [user("2+2?"), assistant("4")]
SHAREGPT = [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]
WHOLE = (prompt_text(("user", "2+2?")), "4")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return small_tokenizer()


def opened(path: Path, tokenizer: Any, row: dict[str, Any], learns: bool = True, **keys: Any) -> PromptSource:
    config = DataConfig(source=write_rows(path / "rows.jsonl", row), **keys)
    return PromptSource.open(config, tokenizer, 0, 500, 500 if learns else None)


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"messages": CHAT}, "chats in column 'messages'"),
        ({"prompt": CHAT}, "chats in column 'prompt'"),
        ({"id": 3, "anything": CHAT}, "chats in column 'anything'"),
        ({"conversations": SHAREGPT}, "ShareGPT chats in column 'conversations'"),
        ({"conversations": [{**turn, "from": turn["from"].upper()} for turn in SHAREGPT]}, "ShareGPT chats in column"),
        ({"messages": [{"role": turn["from"], "content": turn["value"]} for turn in SHAREGPT]}, "chats in column"),
        ({"messages": json.dumps(CHAT)}, "chats in column 'messages', stored as JSON text"),
        ({"conversations": json.dumps(SHAREGPT, indent=1)}, "ShareGPT chats in column 'conversations', stored as JSON"),
        ({"messages": [user([{"type": "text", "text": "2+"}, {"type": "text", "text": "2?"}]), CHAT[1]]}, "chats in"),
        ({"instruction": "2+2?", "input": "", "output": "4"}, "Alpaca"),
        ({"prompt": CHAT[:1], "completion": CHAT[1:]}, "answers in column 'completion'"),
        ({"prompt": "2+2?", "completion": "4"}, "prompts in column 'prompt'"),
    ],
)
def test_rows_of_known_programs_are_read_as_they_are_and_said(
    row: dict[str, Any], found: str, tokenizer: Any, tmp_path: Path
) -> None:
    source = opened(tmp_path, tokenizer, row)
    assert source.texts_of_row(0) == WHOLE
    assert found in source.found
    assert source.warnings == []


@pytest.mark.parametrize(
    ("format", "row"),
    [
        ("messages", {"question": "other", "messages": CHAT}),
        ("sharegpt", {"question": "other", "conversations": SHAREGPT}),
        ("alpaca", {"instruction": "2+2?", "output": "4", "answer": "5", "question": "other"}),
    ],
)
def test_the_format_can_be_said_by_hand(format: str, row: dict[str, Any], tokenizer: Any, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"format": format, "reference": "{output}" if format == "alpaca" else None}
    if format != "alpaca":
        keys["prompt"] = "{question_is_not_asked}"
        keys["messages"] = "messages" if format == "messages" else "conversations"
    assert opened(tmp_path, tokenizer, row, **keys).texts_of_row(0) == WHOLE


def test_a_chat_stands_wherever_the_prompt_names_it(tokenizer: Any, tmp_path: Path) -> None:
    source = opened(tmp_path, tokenizer, {"prompt": CHAT[:1], "answer": "4"}, prompt="{prompt}")
    assert source.texts_of_row(0) == WHOLE


def test_verl_rows_bring_their_reference(tokenizer: Any, tmp_path: Path) -> None:
    row = {"data_source": "gsm8k", "prompt": CHAT[:1], "reward_model": {"style": "rule", "ground_truth": "4"}}
    source = opened(tmp_path, tokenizer, row, learns=False)
    assert (source.prompt(0).text, source.prompt(0).references) == (WHOLE[0], ("4",))
    assert "verl" in source.found


def test_an_input_and_what_was_said_before_stand_in_the_chat(tokenizer: Any, tmp_path: Path) -> None:
    row = {"instruction": "Add.", "input": "2 2", "output": "4"}
    assert opened(tmp_path, tokenizer, row).prompt(0).text == prompt_text(("user", "Add.\n\n2 2"))
    row |= {"system": "Be kind.", "history": [["hi", "yo"]]}  # type: ignore[dict-item]
    expected = prompt_text(("system", "Be kind."), ("user", "hi"), ("assistant", "yo"), ("user", "Add.\n\n2 2"))
    assert opened(tmp_path, tokenizer, row).prompt(0).text == expected


def test_sharegpt_rows_may_keep_their_system_message_beside_the_chat(tokenizer: Any, tmp_path: Path) -> None:
    source = opened(tmp_path, tokenizer, {"system": "Be kind.", "conversations": SHAREGPT})
    assert source.prompt(0).text == prompt_text(("system", "Be kind."), ("user", "2+2?"))


CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 2}'}}
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {}}}]


def test_tool_calls_and_results_are_rendered_and_a_last_call_is_the_demonstration(tmp_path: Path) -> None:
    tokenizer = small_tokenizer(TOOL_TEMPLATE)
    turns = [user("2+2?"), assistant(None, tool_calls=[CALL]), {"role": "tool", "content": "4", "tool_call_id": "1"}]
    written = '<call>add {"a": 2, "b": 2}</call>'
    whole = opened(tmp_path, tokenizer, {"messages": [*turns, assistant("It is 4.")], "tools": TOOLS})
    assert whole.prompt(0).text.startswith('tools: [{"type": "function"')
    expected = prompt_text(("user", "2+2?"), ("assistant", written), ("tool", "4"))
    assert whole.prompt(0).text.endswith(expected)
    assert whole.texts_of_row(0)[1] == "It is 4."
    assert whole.found == "chats in column 'messages', tools in column 'tools'"
    calling = opened(tmp_path, tokenizer, {"messages": turns[:2], "tools": json.dumps(TOOLS)})
    assert calling.texts_of_row(0)[1] == written
    assert tokenizer.decode(calling.demonstration(0)[2]) == written + "<|im_end|>"


def test_tool_calls_that_the_template_does_not_write_are_refused(tokenizer: Any, tmp_path: Path) -> None:
    chat = [user("2+2?"), assistant(None, tool_calls=[CALL])]
    with pytest.raises(ValueError, match=r"row 1: the chat template of .* does not write tool calls"):
        opened(tmp_path, tokenizer, {"messages": chat})


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        ([user([{"type": "image_url", "image_url": {}}])], "message 1 has a part of type 'image_url': only text"),
        ([user("a"), assistant(None)], "message 2 needs `role` and `content`, both text; its content is 'None'"),
        ([{"from": "martian", "value": "a"}], "message 1 is from 'martian'; known are human"),
        ([user("a"), {"from": "gpt", "value": None}], "message 2 needs a text as its `value`"),
        ([user("a"), assistant("", tool_calls=[{"id": "1"}])], "message 2 has a tool call without a name"),
        ([assistant("a")], "the chat has nothing before the assistant's message"),
        ([], "a chat must be a non-empty list"),
        ("2+2?", r"a chat must be a non-empty list of messages; it is '2\+2\?'"),
        ('[{"role": "user", "content": "a \\ud83d"}]', r"its JSON text: column 'content' holds \\ud83d, half of"),
        ([user("a"), assistant("", tool_calls='[{"name": "f\\udc00"}]')], r"its JSON text: column 'name' holds"),
        ("[{'role': 'user', 'content': 'a'}]", "the chat is the text of a Python list, not JSON"),
    ],
)
def test_a_chat_that_would_lose_something_is_refused_by_name(
    chat: Any, message: str, tokenizer: Any, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"row 1: {message}"):
        opened(tmp_path, tokenizer, {"chat": chat}, messages="chat", reference=None)


def test_chats_have_no_place_in_a_plain_template(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"column 'messages' holds chats, which `template: {prompt}` has no place for"):
        opened(tmp_path, tokenizer, {"messages": CHAT}, template="{prompt}")


@pytest.mark.parametrize(
    ("row", "keys", "message"),
    [
        ({"question": {"a": 1}, "answer": "4"}, {}, "row 1: column 'question' holds an object, .*{question!j}"),
        ({"question": [{"a": 1}], "answer": "4"}, {}, "row 1: column 'question' holds a list of objects"),
        ({"question": "q", "answer": {"a": 1}}, {}, "row 1: column 'answer' holds an object"),
        ({"question": "q", "answer": [{"a": 1}]}, {}, "row 1: column 'answer' holds an object"),
        ({"question": "q", "answer": "4", "x": {}}, {"response": "{x}"}, "row 1: column 'x' holds an object"),
        ({"question": CHAT, "answer": "4"}, {"format": "columns"}, "'question' holds a list of objects.*data.messages"),
        ({"question": CHAT, "answer": "4"}, {"prompt": "Q: {question}"}, "'question' holds a list of objects"),
    ],
)
def test_structured_cells_never_become_text_without_a_word(
    row: dict[str, Any], keys: dict[str, Any], message: str, tokenizer: Any, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        opened(tmp_path, tokenizer, row, **keys)


def test_the_json_text_of_a_cell_is_asked_for(tokenizer: Any, tmp_path: Path) -> None:
    source = opened(tmp_path, tokenizer, {"q": {"a": [1]}, "answer": "4"}, prompt="{q!j}")
    assert source.prompt(0).text == prompt_text(("user", '{"a": [1]}'))


def test_an_empty_prompt_and_what_no_model_of_texts_reads_are_counted(tokenizer: Any, tmp_path: Path) -> None:
    source = opened(tmp_path, tokenizer, {"question": " ", "answer": "4", "images": ["a.png"]})
    assert [warning.removeprefix(f"{source.config.source}: ") for warning in source.warnings] == [
        "the images of 1 of 1 rows go beside the text and are not read: only text is (first: row 1)",
        "the prompts of 1 of 1 rows are empty (first: row 1)",
    ]
