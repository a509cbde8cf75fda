"""Preference rows: formats, encoding, cutting, and rows that nothing can be learned from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raylign.jobs.init_model import CHAT_TEMPLATE, END_TOKEN, PAD_TOKEN, train_tokenizer
from raylign.rollout.data.config import DataConfig, PairFormat, PairsConfig
from raylign.rollout.data.prompts import PromptSource

ROW = {"prompt": "Q: why? A:", "chosen": " because", "rejected": " no"}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import PreTrainedTokenizerFast

    trained = train_tokenizer(["one two three"], vocabulary_size=300, split_digits=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=trained, eos_token=END_TOKEN, pad_token=PAD_TOKEN, chat_template=CHAT_TEMPLATE
    )


def opened(
    path: Path,
    tokenizer: Any,
    rows: list[dict[str, Any]],
    limit: int = 200,
    prompt_limit: int | None = None,
    **pairs: Any,
) -> PromptSource:
    file = path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DataConfig(
        source=str(file), prompt="{prompt}", reference=None, template="{prompt}", shuffle=False,
        pairs=PairsConfig(**pairs),
    )  # fmt: skip
    return PromptSource.open_pairs(config, tokenizer, 0, prompt_limit or limit, limit)


def test_answers_are_encoded_apart_from_the_prompt_and_end_in_the_end_token(tokenizer: Any, tmp_path: Path) -> None:
    pair = opened(tmp_path, tokenizer, [ROW]).pair(0)
    assert tokenizer.decode(pair.prompt.token_ids) == "Q: why? A:"
    assert tokenizer.decode(pair.chosen_ids) == " because" + END_TOKEN
    assert tokenizer.decode(pair.rejected_ids) == " no" + END_TOKEN
    assert (pair.probability, pair.num_drawn) == (1.0, None)


def test_an_answer_cut_at_the_token_limit_gets_no_end_token(tokenizer: Any, tmp_path: Path) -> None:
    pair = opened(tmp_path, tokenizer, [ROW | {"rejected_finished": False, "n": 4}]).pair(0)
    assert tokenizer.decode(pair.rejected_ids) == " no"
    assert pair.num_drawn == 4


def test_soft_labels_come_from_a_column(tokenizer: Any, tmp_path: Path) -> None:
    assert opened(tmp_path, tokenizer, [ROW | {"bt_prob": 0.7}], probability="bt_prob").pair(0).probability == 0.7
    with pytest.raises(ValueError, match=r"row 1: `bt_prob` is 1\.7, not a probability"):
        opened(tmp_path, tokenizer, [ROW | {"bt_prob": 1.7}], probability="bt_prob")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (ROW | {"rejected": ROW["chosen"]}, "chosen and rejected are the same"),
        (ROW | {"chosen": ""}, "the chosen answer is empty"),
        (ROW | {"rejected": " \n"}, "the rejected answer is empty"),
    ],
)
def test_a_pair_that_teaches_nothing_is_named_or_left_out(
    row: dict[str, Any], why: str, tokenizer: Any, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"row 2: {why}; so are 1 of 2 pairs"):
        opened(tmp_path, tokenizer, [ROW, row])
    source = opened(tmp_path, tokenizer, [ROW, row], skip_unusable=True)
    assert (len(source), source.num_unusable) == (1, 1)
    with pytest.raises(ValueError, match="none of 1 pairs is usable"):
        opened(tmp_path, tokenizer, [row], skip_unusable=True)


def test_a_pair_that_is_too_long_is_cut_prompt_first(tokenizer: Any, tmp_path: Path) -> None:
    """Limit 20, prompt at most 8: the prompt keeps 8 tokens, and each answer what is left of 12."""
    row = {"prompt": "0123456789" * 2, "chosen": "abcdefghijklmnop", "rejected": "xy"}
    with pytest.raises(ValueError, match="row 1: the prompt with its chosen answer has 37 tokens, more than the 30"):
        opened(tmp_path, tokenizer, [row], limit=30)
    for keep, prompt in (("end", "23456789"), ("start", "01234567")):
        pair = opened(tmp_path, tokenizer, [row], limit=20, max_prompt_tokens=8, keep=keep).pair(0)
        assert tokenizer.decode(pair.prompt.token_ids) == prompt
        assert tokenizer.decode(pair.chosen_ids) == "abcdefghijkl", "cut before the end token"
        assert tokenizer.decode(pair.rejected_ids) == "xy" + END_TOKEN
    short = opened(tmp_path, tokenizer, [ROW], limit=40, max_prompt_tokens=2).pair(0)
    assert tokenizer.decode(short.prompt.token_ids) == ROW["prompt"], "what fits is not cut"


def test_a_prompt_that_leaves_no_room_for_a_sampled_answer_is_cut_too(tokenizer: Any, tmp_path: Path) -> None:
    row = {"prompt": "0123456789", "chosen": "a", "rejected": "b"}
    for size, expected in ((4, "6789"), (8, "456789")):
        source = opened(tmp_path, tokenizer, [row], limit=20, prompt_limit=6, max_prompt_tokens=size)
        for prompt in (source.prompt(0), source.take(0, 1)[0], source.pair(0).prompt):
            assert tokenizer.decode(prompt.token_ids) == expected
    fits = opened(tmp_path, tokenizer, [row], limit=20, prompt_limit=10, max_prompt_tokens=4)
    assert tokenizer.decode(fits.prompt(0).token_ids) == row["prompt"]


@pytest.mark.parametrize("size", [20, 30])
def test_a_cut_prompt_that_would_fill_the_context_is_refused(tokenizer: Any, tmp_path: Path, size: int) -> None:
    with pytest.raises(ValueError, match=f"max_prompt_tokens is {size}: .* no room for an answer .* of 20 tokens"):
        opened(tmp_path, tokenizer, [ROW], limit=20, max_prompt_tokens=size)


DIALOGUE = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: bye\n\nAssistant:"
SHP = {"history": DIALOGUE, "human_ref_A": " grim", "human_ref_B": " good", "labels": 0, "score_ratio": 2.5}
FORMATS: list[tuple[PairFormat, dict[str, Any]]] = [
    ("shp", SHP),
    ("dialogues", {"chosen": DIALOGUE + " good", "rejected": DIALOGUE + " grim"}),
    ("best_worst", {DIALOGUE: {"responses": ["x", " grim", " good"], "pairs": [[2, 1]]}}),
    (
        "pku_better",
        {"prompt": DIALOGUE, "response_0": " grim", "response_1": " good", "better_response_id": 1},
    ),
    ("pku_safer", {"prompt": DIALOGUE, "response_0": " good", "response_1": " grim", "safer_response_id": 0}),
    (
        "ultrafeedback",
        {
            "instruction": DIALOGUE,
            "completions": [
                {"response": text, "overall_score": score}
                for text, score in (("a", 5), (" good", 9), (" grim", 2), ("b", 9))
            ],
        },
    ),
    (
        "webgpt",
        {"question": {"full_text": DIALOGUE}, "answer_0": " grim", "answer_1": " good", "score_0": -1, "score_1": 1},
    ),
]


SUMMARIES = {
    "info": {"subreddit": "cats", "title": "T", "post": "P"},
    "summaries": [{"text": " bad"}, {"text": " fine"}],
    "choice": 1,
}


@pytest.mark.parametrize(("format", "row"), FORMATS)
def test_rows_as_they_are_published(format: PairFormat, row: dict[str, Any], tokenizer: Any, tmp_path: Path) -> None:
    pair = opened(tmp_path, tokenizer, [row], format=format).pair(0)
    assert (pair.prompt.text, pair.chosen, pair.rejected) == (DIALOGUE, " good", " grim")


def test_a_post_and_its_summaries(tokenizer: Any, tmp_path: Path) -> None:
    pair = opened(tmp_path, tokenizer, [SUMMARIES], format="summarize").pair(0)
    assert pair.prompt.text == "SUBREDDIT: r/cats\nTITLE: T\nPOST: P\nTL;DR:"
    assert (pair.chosen, pair.rejected) == (" fine", " bad")


@pytest.mark.parametrize(("format", "row"), [*FORMATS, ("summarize", SUMMARIES)])
def test_other_columns_of_a_row_serve_labels_and_templates_in_every_format(
    format: PairFormat, row: dict[str, Any], tokenizer: Any, tmp_path: Path
) -> None:
    others = {"bt_prob": 0.7, "tone": " (kindly)", "n": 4}
    row = {DIALOGUE: row[DIALOGUE] | others} if format == "best_worst" else row | others
    pair = opened(tmp_path, tokenizer, [row], format=format, probability="bt_prob", chosen="{chosen}{tone}").pair(0)
    assert (pair.probability, pair.num_drawn) == (0.7, 4)
    assert pair.chosen in (" good (kindly)", " fine (kindly)")
    assert not {"completions", "responses", "pairs", "summaries"} & set(pair.prompt.row)


def test_chats_share_all_but_the_last_message(tokenizer: Any, tmp_path: Path) -> None:
    question = {"role": "user", "content": "hi"}
    chats = {
        side: [question, {"role": "assistant", "content": text}]
        for side, text in (("chosen", "yo"), ("rejected", "no"))
    }
    file = tmp_path / "chats.jsonl"
    file.write_text(json.dumps(chats) + "\n")
    config = DataConfig(
        source=str(file), messages="prompt_messages", reference=None, pairs=PairsConfig(format="messages")
    )
    pair = PromptSource.open_pairs(config, tokenizer, 0, 100, 100).pair(0)
    assert pair.prompt.text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert (pair.chosen, pair.rejected) == ("yo", "no")
    chats["rejected"] = chats["rejected"][1:]
    file.write_text(json.dumps(chats) + "\n")
    with pytest.raises(ValueError, match="row 1 is no pair in the format `messages`: the two chats must be the same"):
        PromptSource.open_pairs(config, tokenizer, 0, 100, 100)


def test_equal_scores_make_no_pair(tokenizer: Any, tmp_path: Path) -> None:
    row = FORMATS[-1][1]
    source = opened(tmp_path, tokenizer, [row, row | {"score_0": 1}], format="webgpt")
    assert len(source) == 1


def test_scores_of_shp_that_are_near_each_other_make_no_pair(tokenizer: Any, tmp_path: Path) -> None:
    near = SHP | {"score_ratio": 1.9}
    assert len(opened(tmp_path, tokenizer, [SHP, near, SHP | {"labels": 1}], format="shp")) == 2


def test_every_two_answers_of_unequal_scores_are_a_pair_and_html_is_read(tokenizer: Any, tmp_path: Path) -> None:
    scored = ((3, "<p>use <code>a&lt;b</code></p>"), (1, "no"), (3, "also"), (0, "never"))
    answers = [{"pm_score": score, "text": text} for score, text in scored]
    row = {
        "qid": 1,
        "question": "<p>how <b>to</b>\n sort?</p>\n<pre><code>for x:\n    y\n</code></pre>",
        "answers": answers,
    }
    source = opened(tmp_path, tokenizer, [row], format="stack_exchange", probability=None)
    found = [(source.pair(n).chosen, source.pair(n).rejected) for n in range(len(source))]
    assert source.pair(0).prompt.text == "how to sort?\n\nfor x:\n    y"
    assert sorted(found) == sorted(
        [("use a<b", "no"), ("use a<b", "never"), ("also", "no"), ("no", "never"), ("also", "never")]
    )


def test_another_mapping_of_the_same_rows_is_another_fingerprint(tokenizer: Any, tmp_path: Path) -> None:
    rows = [ROW | {"bt_prob": 0.7}]
    assert (
        opened(tmp_path, tokenizer, rows).fingerprint
        != opened(tmp_path, tokenizer, rows, probability="bt_prob").fingerprint
    )
