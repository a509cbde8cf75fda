"""Preference pairs whose answers are chats, and pairs as they are trained.

Given rows of the common preference formats; shows the prompt and both answers, or what is said of a row.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raylign.rollout.data.config import DataConfig, PairsConfig
from raylign.rollout.data.prompts import PromptSource
from tests.rollout.data.small import TOOL_TEMPLATE, assistant, prompt_text, small_tokenizer, user, write_rows

ASKED = prompt_text(("user", "2+2?"))
EXPLICIT = {"prompt": [user("2+2?")], "chosen": [assistant("4")], "rejected": [assistant("9")]}
IMPLICIT = {side: [user("2+2?"), assistant(text)] for side, text in (("chosen", "4"), ("rejected", "9"))}
SHAREGPT = {
    "conversations": [{"from": "human", "value": "2+2?"}],
    "chosen": {"from": "gpt", "value": "4"},
    "rejected": {"from": "gpt", "value": "9"},
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return small_tokenizer()


def opened(path: Path, tokenizer: Any, *rows: dict[str, Any], limit: int = 500, **keys: Any) -> PromptSource:
    config = DataConfig(source=write_rows(path / "pairs.jsonl", *rows), shuffle=False, **keys)
    return PromptSource.open_pairs(config, tokenizer, 0, limit, limit)


@pytest.mark.parametrize(
    "row",
    [
        EXPLICIT,
        IMPLICIT,
        {"prompt": "2+2?", **IMPLICIT},
        {"prompt": "2+2? (another text)", **IMPLICIT},
        {"prompt": "2+2?", "chosen": [assistant("4")], "rejected": [assistant("9")]},
        {"prompt": [user("2+2?")], "chosen": "4", "rejected": "9"},
        {"prompt": "2+2?", "chosen": "4", "rejected": "9"},
        {key: json.dumps(value) for key, value in EXPLICIT.items()},
        SHAREGPT,
    ],
)
def test_pairs_of_chats_are_found_with_no_key_set(row: dict[str, Any], tokenizer: Any, tmp_path: Path) -> None:
    pair = opened(tmp_path, tokenizer, row).pair(0)
    assert (pair.prompt.text, pair.chosen, pair.rejected) == (ASKED, "4", "9")
    assert len(pair.chosen_ids) == 2, "the answer and the end token, no JSON"


@pytest.mark.parametrize("row", [EXPLICIT, IMPLICIT])
@pytest.mark.parametrize("keys", [{}, {"prompt": "{prompt}"}, {"messages": "prompt_messages"}])
def test_the_format_messages_takes_both_kinds(
    row: dict[str, Any], keys: dict[str, Any], tokenizer: Any, tmp_path: Path
) -> None:
    pair = opened(tmp_path, tokenizer, row, reference=None, pairs=PairsConfig(format="messages"), **keys).pair(0)
    assert (pair.prompt.text, pair.chosen, pair.rejected) == (ASKED, "4", "9")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (EXPLICIT | {"chosen": [assistant("4"), user("?"), assistant("5")]}, "must be the same up to their last"),
        (EXPLICIT | {"rejected": [user("9")]}, "both chats must end in an assistant's message"),
        ({key: EXPLICIT[key] for key in ("chosen", "rejected")}, "there is no prompt"),
        (EXPLICIT | {"chosen": [user([{"type": "image"}])]}, "part of type 'image'"),
    ],
)
def test_chats_that_are_no_pair_are_named(row: dict[str, Any], message: str, tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"row 2 is no pair in the format `messages`: .*{message}"):
        opened(tmp_path, tokenizer, EXPLICIT, row)


def test_answers_that_call_tools_are_written_by_the_template(tmp_path: Path) -> None:
    calls = [[{"function": {"name": "add", "arguments": {"a": n}}}] for n in (2, 3)]
    sides = {side: [assistant(None, tool_calls=c)] for side, c in zip(("chosen", "rejected"), calls, strict=True)}
    pair = opened(tmp_path, small_tokenizer(TOOL_TEMPLATE), EXPLICIT | sides).pair(0)
    assert (pair.chosen, pair.rejected) == ('<call>add {"a": 2}</call>', '<call>add {"a": 3}</call>')


def test_an_object_as_an_answer_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="row 1: column 'chosen' holds an object"):
        opened(tmp_path, tokenizer, {"prompt": "q", "chosen": {"text": "4"}, "rejected": "9"})


LONG = {"prompt": "2+2?", "chosen": "x" * 60 + "4", "rejected": "x" * 60 + "9"}


def test_pairs_that_are_equal_once_they_are_cut_teach_nothing(tokenizer: Any, tmp_path: Path) -> None:
    rows = [LONG, {"prompt": "2+2?", "chosen": "4" + "x" * 60, "rejected": "9"}]
    keys: dict[str, Any] = {"prompt": "{prompt}", "limit": 40}
    with pytest.raises(ValueError, match="row 1: chosen and rejected are the same once they are cut to 16 tokens; so"):
        opened(tmp_path, tokenizer, *rows, pairs=PairsConfig(max_prompt_tokens=24), **keys)
    source = opened(tmp_path, tokenizer, *rows, pairs=PairsConfig(max_prompt_tokens=24, skip_unusable=True), **keys)
    assert (len(source), source.num_unusable) == (1, 1)
    assert "cut to the context: 0 prompts to 24 tokens, 1 answers" in source.notes


def test_an_end_token_in_the_text_is_no_difference(tokenizer: Any, tmp_path: Path) -> None:
    for row, why in (
        ({"chosen": "4<|im_end|>", "rejected": "4"}, "are the same"),
        ({"chosen": "<|im_end|>", "rejected": "4"}, "the chosen answer is empty"),
    ):
        with pytest.raises(ValueError, match=f"row 1: .*{why}"):
            opened(tmp_path, tokenizer, {"prompt": "2+2?", **row})


def test_nan_as_an_answer_counts_as_missing(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="row 1: the rejected answer is empty; so are 1 of 1"):
        opened(tmp_path, tokenizer, {"prompt": "2+2?", "chosen": "4", "rejected": float("nan")})


def test_a_prompt_that_both_chats_contradict_is_said(tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"prompt": "3+3?", **IMPLICIT}, {"prompt": "2+2?", **IMPLICIT}]
    found = "column 'prompt' is not read: both chats say another prompt in 1 of 2 rows"
    assert found in opened(tmp_path, tokenizer, *rows).found
    assert opened(tmp_path, tokenizer, rows[1]).found == "pairs of chats"


@pytest.mark.parametrize(
    ("row", "format"),
    [
        ({side: f"\n\nHuman: 2+2?\n\nAssistant: {side}" for side in ("chosen", "rejected")}, "dialogues"),
        ({"prompt": "2+2?", "response_0": "4", "response_1": "9", "better_response_id": 0}, "pku_better"),
        ({"instruction": "2+2?", "completions": []}, "ultrafeedback"),
        ({"question": {}, "answer_0": "4", "answer_1": "9", "score_0": 1, "score_1": 0}, "webgpt"),
        ({"info": {}, "summaries": [], "choice": 0}, "summarize"),
        ({"2+2?": {"responses": ["4", "9"], "pairs": [[0, 1]]}}, "best_worst"),
    ],
)
def test_rows_of_a_published_format_are_refused_with_its_name(
    row: dict[str, Any], format: str, tokenizer: Any, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"row 1: these look like rows of the format `{format}`: set data.pairs.form"):
        opened(tmp_path, tokenizer, row)


def test_pairs_whose_answers_are_compared_with_a_reference_need_one(tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"prompt": f"2+{n}?", "chosen": "4", "rejected": "9", "answer": "4" if n else None} for n in range(3)]
    config = DataConfig(source=write_rows(tmp_path / "pairs.jsonl", *rows))
    assert len(PromptSource.open_pairs(config, tokenizer, 0, 500, 500)) == 3
    with pytest.raises(ValueError, match="row 1: no reference answer, and a reward compares with it; so have 1 of 3"):
        PromptSource.open_pairs(config, tokenizer, 0, 500, 500, needs_references=True)
    left_out = config.model_copy(update={"skip_unanswered": True})
    source = PromptSource.open_pairs(left_out, tokenizer, 0, 500, 500, needs_references=True)
    assert (len(source), source.num_unanswered, source.num_unusable) == (2, 1, 0)
