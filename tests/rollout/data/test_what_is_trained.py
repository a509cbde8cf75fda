"""What is trained: answers that are there, end tokens once, special tokens counted, the template's own rendering.

Given small rows and tokenizers; shows token ids, warnings with counts, and what is refused or left out.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from raylign.jobs.config.references import compare_with_references
from raylign.rewards.patterns import RegexConfig
from raylign.rewards.rules import LengthConfig, NumericConfig
from raylign.rollout.data.config import DataConfig
from raylign.rollout.data.prompts import PromptSource
from raylign.rollout.data.text_checks import first_text_beyond, tokens_without_embedding
from tests.rollout.data.small import small_tokenizer, write_rows

MISSING: list[Any] = [None, float("nan"), float("inf"), "", "  ", [], [None], [""]]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return small_tokenizer()


def opened(path: Path, tokenizer: Any, *rows: dict[str, Any], learns: bool = True, **keys: Any) -> PromptSource:
    needs_references = keys.pop("needs_references", False)
    config = DataConfig(source=write_rows(path / "rows.jsonl", *rows), shuffle=False, **keys)
    return PromptSource.open(config, tokenizer, 0, 500, 500 if learns else None, needs_references)


def row(question: Any = "2+3?", answer: Any = "5") -> dict[str, Any]:
    return {"question": question, "answer": answer}


@pytest.mark.parametrize("missing", MISSING)
def test_a_missing_answer_is_counted_over_all_rows_and_refused_or_left_out(
    missing: Any, tokenizer: Any, tmp_path: Path
) -> None:
    rows = [row(), row(), row(answer=missing), row(answer=missing)]
    for keys, what in (
        ({"learns": True}, "no demonstration to learn from"),
        ({"learns": False, "needs_references": True}, "no reference answer, and a reward compares with it"),
    ):
        with pytest.raises(ValueError, match=f"row 3: {what}; so have 2 of 4 rows .* skip_unanswered: true"):
            opened(tmp_path, tokenizer, *rows, **keys)
        source = opened(tmp_path, tokenizer, *rows, **keys, skip_unanswered=True)
        assert (len(source), source.num_unanswered) == (2, 2)
    assert len(opened(tmp_path, tokenizer, *rows, learns=False)) == 4, "no reward compares"


def test_rows_that_all_lack_an_answer_are_refused_whatever_the_key_says(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="row 1: no demonstration to learn from; so have 1 of 1 rows"):
        opened(tmp_path, tokenizer, row(answer=None), skip_unanswered=True)


def test_nan_never_becomes_text(tokenizer: Any, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    with pytest.raises(ValueError, match="row 1: column 'question' is nan"):
        opened(tmp_path, tokenizer, row(question=float("nan")))
    table = pyarrow.Table.from_pylist([{"question": "a", "answer": float("nan")}, {"question": "b", "answer": 2.0}])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    config = DataConfig(source=str(tmp_path / "a.parquet"), skip_unanswered=True)
    assert PromptSource.open(config, tokenizer, 0, 500, 500).texts_of_row(0)[1] == "2"


def test_a_huge_number_is_written_as_it_is_and_not_with_invented_digits(tokenizer: Any, tmp_path: Path) -> None:
    assert opened(tmp_path, tokenizer, row(answer=1e300)).texts_of_row(0)[1] == "1e+300"
    assert opened(tmp_path, tokenizer, row(answer=12.0)).texts_of_row(0)[1] == "12"


def test_rewards_that_compare_with_references_are_known() -> None:
    assert compare_with_references([LengthConfig(free_tokens=1, max_tokens=2), NumericConfig()])
    assert compare_with_references([RegexConfig(pattern="(a)")])
    assert not compare_with_references([RegexConfig(pattern="a"), LengthConfig(free_tokens=1, max_tokens=2)])


def test_an_end_token_in_the_text_is_not_put_there_again_and_counted(tokenizer: Any, tmp_path: Path) -> None:
    source = opened(tmp_path, tokenizer, row(), row(answer="5<|im_end|>"))
    once, same = source.demonstration(0)[2].tolist(), source.demonstration(1)[2].tolist()
    assert once == same == [*tokenizer("5")["input_ids"], tokenizer.eos_token_id]
    assert any("answers of 1 of 2 rows end in the end token '<|im_end|>'" in text for text in source.warnings)


@pytest.mark.parametrize(
    ("rows", "warning"),
    [
        ([row(), row(answer="6<|im_end|> no")], "the answers of 1 of 2 rows have a special token inside"),
        ([row("a<|im_start|>b"), row()], "the prompts of 1 of 2 rows have a special token inside, such as '<|im_start"),
        ([row(), row(answer="6\0"), row(answer="\0")], "2 of 3 rows have a NUL character inside (first: row 2)"),
        ([row("a\0")], "the prompts of 1 of 1 rows have a NUL character inside (first: row 1)"),
    ],
)  # fmt: skip
def test_tokens_and_characters_that_texts_should_not_hold_are_counted(
    rows: list[dict[str, Any]], warning: str, tokenizer: Any, tmp_path: Path
) -> None:
    assert any(warning in text for text in opened(tmp_path, tokenizer, *rows).warnings)


START, END = "<|im_start|>", "<|im_end|>"
TURNS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + BEFORE + m['content'] + 'END' + '\n' }}{% endfor %}"
)
OPENING = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\nTHINK' }}{% endif %}"


def template(before: str = "''", end: str = END, opening: str = OPENING, think: str = "") -> str:
    return TURNS.replace("BEFORE", before).replace("END", end) + opening.replace("THINK", think)


@pytest.mark.parametrize(
    ("chat_template", "answer", "warning"),
    [
        (template(), "5", None),
        (template().replace("m['content']", "m['content'] | trim"), " 5 ", None),
        (template(opening=""), "5", "has no generation prompt: prompts end without '<|im_start|>assistant\\n'"),
        (template(think="<think>\\n"), "<think>\n2+3</think>5", "opens <think>, and so do the demonstrations"),
        (template(think="<think>\\n"), "5", "the demonstrations do not close it: they are learned as thoughts"),
        (template(think="<think>\\n"), "2+3</think>5", None),
        (
            template(before="('<think></think>' if m['role'] == 'assistant' else '')"),
            "5",
            "writes '<think></think>' before the demonstrations",
        ),
        (template(end="<|turn_end|>"), "5", "ends the assistant's turn with '<|turn_end|>', and"),
        (template().replace("m['content']", "m['content'] | upper"), "five", "writes an answered chat otherwise"),
    ],
)  # fmt: skip
def test_prompt_and_demonstration_are_held_against_the_templates_own_rendering(
    chat_template: str, answer: str, warning: str | None, tmp_path: Path
) -> None:
    warnings = opened(tmp_path, small_tokenizer(chat_template), row("A?", answer), row("B?", answer)).warnings
    assert len(warnings) == (warning is not None), warnings
    assert warning is None or warning in warnings[0]


def test_a_missing_generation_prompt_is_said_of_prompts_too(tmp_path: Path) -> None:
    found = opened(tmp_path, small_tokenizer(template(opening="")), row(), learns=False).warnings
    assert len(found) == 1 and "has no generation prompt" in found[0]
    thinking = template(before="('<think></think>' if m['role'] == 'assistant' else '')")
    assert opened(tmp_path, small_tokenizer(thinking), row(), learns=False).warnings == []


def test_a_text_that_no_context_holds_is_refused_by_its_characters(tokenizer: Any, tmp_path: Path) -> None:
    rows = [row(), row("x" * 2_000_000), row(answer="ä" * 2_000_000)]
    start_s = time.process_time()
    with pytest.raises(ValueError, match=r"row 2: the prompt has at least \d+ tokens, more than the 500"):
        opened(tmp_path, tokenizer, *rows)
    source = opened(tmp_path, tokenizer, *rows, skip_too_long=True)
    assert (len(source), source.num_skipped) == (1, 2)
    assert time.process_time() - start_s < 5, "a tokenizer alone takes half a minute"


def test_tokens_without_an_embedding_are_found_in_the_texts_that_need_them() -> None:
    tokenizer = small_tokenizer()
    size = len(tokenizer)
    tokenizer.add_tokens(["<|new|>"])
    assert tokens_without_embedding(tokenizer, size) == {"<|new|>": size}
    assert first_text_beyond(tokenizer, ["a", "b<|new|>c"], size) == (1, "<|new|>")
    assert first_text_beyond(tokenizer, ["a", "<|new"], size) is None
    assert first_text_beyond(tokenizer, ["a", "b<|new|>c"], size + 1) is None
