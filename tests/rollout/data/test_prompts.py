"""The prompt source: mapping, order, lengths, demonstrations.

Given small files and a tokenizer trained on the spot; shows what prompts come out, and which inputs are refused.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from raylign.jobs.init_model import CHAT_TEMPLATE, END_TOKEN, PAD_TOKEN, train_tokenizer
from raylign.rollout.data.config import DataConfig
from raylign.rollout.data.prompts import PromptSource
from tests.patience import HANGS_S


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import PreTrainedTokenizerFast

    trained = train_tokenizer(["one two three"], vocabulary_size=300, split_digits=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=trained, eos_token=END_TOKEN, pad_token=PAD_TOKEN, chat_template=CHAT_TEMPLATE
    )


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def numbers(tmp_path: Path) -> str:
    """Ten rows whose question is their number."""
    rows = [{"question": f"number {i}", "answer": float(i)} for i in range(10)]
    return write_rows(tmp_path / "numbers.jsonl", rows)


def test_a_row_becomes_a_chat_prompt_with_its_reference(tokenizer: Any, numbers: str) -> None:
    source = PromptSource.open(DataConfig(source=numbers, shuffle=False), tokenizer, 0, 100)
    prompt = source.prompt(3)
    assert prompt.text == "<|im_start|>user\nnumber 3<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(prompt.token_ids) == prompt.text
    assert prompt.references == ("3",), "a float that is an integer has no .0"
    assert prompt.row == {"question": "number 3", "answer": 3.0}
    assert (prompt.ordinal, prompt.prompt_id) == (3, f"{source.fingerprint[:8]}-3")


def test_a_plain_template_and_several_columns(tokenizer: Any, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "x.jsonl", [{"Body": "I have 2.", "Question": "How many?", "Answer": 2.5}])
    config = DataConfig(source=file, prompt="{Body} {Question}", reference="{Answer}", template="Q: {prompt}\nA:")
    prompt = PromptSource.open(config, tokenizer, 0, 100).prompt(0)
    assert prompt.text == "Q: I have 2. How many?\nA:"
    assert prompt.references == ("2.5",)


def test_a_list_column_gives_several_references_and_null_gives_none(tokenizer: Any, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"question": "a", "answer": ["x", 2.0]}, {"question": "b", "answer": None}]
    config = DataConfig(source=write_rows(tmp_path / "x.jsonl", rows), shuffle=False, reference="is {answer}")
    prompts = PromptSource.open(config, tokenizer, 0, 100).take(0, 2)
    assert [prompt.references for prompt in prompts] == [("is x", "is 2"), ()]


def test_every_epoch_holds_every_row_once_in_its_own_order(tokenizer: Any, numbers: str) -> None:
    source = PromptSource.open(DataConfig(source=numbers), tokenizer, seed=7, max_prompt_tokens=100)
    epochs = [[prompt.row["answer"] for prompt in source.take(10 * epoch, 10)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_order_depends_on_seed_and_ordinal_only(tokenizer: Any, numbers: str) -> None:
    first = PromptSource.open(DataConfig(source=numbers), tokenizer, 7, 100)
    second = PromptSource.open(DataConfig(source=numbers), tokenizer, 7, 100)
    backwards = [second.prompt(ordinal).text for ordinal in reversed(range(25))]
    assert [prompt.text for prompt in first.take(0, 25)] == backwards[::-1]
    other = PromptSource.open(DataConfig(source=numbers), tokenizer, 8, 100)
    assert [prompt.text for prompt in other.take(0, 25)] != backwards[::-1]


def test_disjoint_ranges_are_disjoint_and_cover_all_rows(tokenizer: Any, numbers: str) -> None:
    sources = [open_range(tokenizer, numbers, rows) for rows in ("0%:33%", "33%:80%", "80%:100%")]
    parts = [{prompt.text for prompt in source.take(0, len(source))} for source in sources]
    assert [len(part) for part in parts] == [3, 5, 2]
    assert len(set.union(*parts)) == 10


def test_equal_prompts_are_never_cut_apart_by_a_range(tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"question": f"number {i % 20}", "answer": i} for i in range(60)]
    file = write_rows(tmp_path / "x.jsonl", rows)
    sources = [open_range(tokenizer, file, rows) for rows in ("0:10", "10:31", "31:60")]
    # Twenty questions, three rows each: bounds 10 and 31 move up to 12 and 33.
    assert [len(source) for source in sources] == [12, 21, 27]
    parts = [{prompt.text for prompt in source.take(0, len(source))} for source in sources]
    assert [len(part) for part in parts] == [4, 7, 9]
    assert len(set.union(*parts)) == 20
    with pytest.raises(ValueError, match="leaves none of the 60 rows"):
        open_range(tokenizer, file, "10:11")


def open_range(tokenizer: Any, file: str, rows: str) -> PromptSource:
    return PromptSource.open(DataConfig(source=file, rows=rows), tokenizer, 0, 100)


def test_without_shuffle_a_range_keeps_the_order_of_the_rows(tokenizer: Any, numbers: str) -> None:
    source = PromptSource.open(DataConfig(source=numbers, rows="0:5", shuffle=False), tokenizer, 0, 100)
    values = [prompt.row["answer"] for prompt in source.take(0, 5)]
    assert values == sorted(values) and len(values) == 5
    assert values != list(range(5)), "chosen in a shuffled order"


@pytest.mark.parametrize("rows", ["0%-80%", "a:b", "10", "-3:5", "0%:120%"])
def test_a_range_that_is_none_is_refused_with_examples(rows: str) -> None:
    with pytest.raises(ValidationError, match=r"rows '.*'"):
        DataConfig(rows=rows)


def test_a_range_without_rows_is_refused(tokenizer: Any, numbers: str) -> None:
    with pytest.raises(ValueError, match="leaves none of the 10 rows"):
        open_range(tokenizer, numbers, "5:5")
    with pytest.raises(ValueError, match="asks for 500 rows, but there are only 10"):
        open_range(tokenizer, numbers, "0:500")


def test_the_fingerprint_is_the_same_in_another_process_and_another_for_other_rows(
    tokenizer: Any, numbers: str, tmp_path: Path
) -> None:
    code = (
        "import sys; from raylign.rollout.data.loading import *; from raylign.rollout.data.mapping import *;"
        "config = DataConfig(source=sys.argv[1]); print(fingerprint_rows(config, load_mapped_rows(config)))"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", code, numbers], capture_output=True, text=True, check=True, timeout=HANGS_S
    )
    here = PromptSource.open(DataConfig(source=numbers), tokenizer, 0, 100)
    assert elsewhere.stdout.strip() == here.fingerprint
    moved = tmp_path / "moved.jsonl"
    moved.write_text(Path(numbers).read_text())
    assert PromptSource.open(DataConfig(source=str(moved)), tokenizer, 0, 100).fingerprint == here.fingerprint
    moved.write_text(Path(numbers).read_text().replace("number 9", "number nine"))
    assert PromptSource.open(DataConfig(source=str(moved)), tokenizer, 0, 100).fingerprint != here.fingerprint
    for changed in (DataConfig(source=numbers, system="Be brief."), DataConfig(source=numbers, rows="0:9")):
        assert PromptSource.open(changed, tokenizer, 0, 100).fingerprint != here.fingerprint


def test_a_prompt_longer_than_the_context_is_named_with_its_length(tokenizer: Any, tmp_path: Path) -> None:
    # Digits are single tokens, so the plain prompts have 5, 30 and 40 tokens.
    rows = [{"question": "7" * length, "answer": "1"} for length in (5, 30, 40)]
    config = DataConfig(source=write_rows(tmp_path / "long.jsonl", rows), template="{prompt}")
    with pytest.raises(ValueError, match=r"long.jsonl, row 2: .* 30 tokens.*29 .*2 of 3 rows \(longest 40\)"):
        PromptSource.open(config, tokenizer, 0, max_prompt_tokens=29)
    kept = PromptSource.open(config.model_copy(update={"skip_too_long": True}), tokenizer, 0, 30)
    assert (len(kept), kept.num_skipped) == (2, 1)
    with pytest.raises(ValueError, match="all 3 rows are too long"):
        PromptSource.open(config.model_copy(update={"skip_too_long": True}), tokenizer, 0, 4)


def test_the_limit_is_exact_for_text_beyond_ascii(tokenizer: Any, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "x.jsonl", [{"question": "ä" * 8, "answer": "1"}])
    config = DataConfig(source=file, template="{prompt}")
    assert len(PromptSource.open(config, tokenizer, 0, 16).prompt(0).token_ids) == 16, "two bytes a letter"
    with pytest.raises(ValueError, match="16 tokens"):
        PromptSource.open(config, tokenizer, 0, 15)


def test_a_demonstration_is_the_response_and_ends_with_the_end_token(tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"question": "1 + 1 =", "answer": "2", "work": "two"}]
    file = write_rows(tmp_path / "x.jsonl", rows)
    prompt, response, token_ids = PromptSource.open(DataConfig(source=file), tokenizer, 0, 100).demonstration(0)
    assert (response, prompt.references) == ("2", ("2",))
    assert token_ids.tolist() == [tokenizer.convert_tokens_to_ids("2"), tokenizer.eos_token_id]
    config = DataConfig(source=file, response="{work}: {answer}")
    assert PromptSource.open(config, tokenizer, 0, 100).demonstration(0)[1] == "two: 2"


def test_prompt_and_demonstration_together_are_held_to_the_context(tokenizer: Any, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "x.jsonl", [{"question": "1" * 10, "answer": "2" * 10}])
    config = DataConfig(source=file, template="{prompt}")
    PromptSource.open(config, tokenizer, 0, 20, max_sequence_tokens=21)  # 10 + 10 + the end token
    with pytest.raises(ValueError, match="prompt with its demonstration has 21 tokens, more than the 20"):
        PromptSource.open(config, tokenizer, 0, 20, max_sequence_tokens=20)


def test_a_row_without_demonstration_is_named(tokenizer: Any, numbers: str) -> None:
    config = DataConfig(source=numbers, reference=None)
    assert PromptSource.open(config, tokenizer, 0, 100).prompt(0).references == ()
    with pytest.raises(ValueError, match="row 1: no demonstration"):
        PromptSource.open(config, tokenizer, 0, 100, max_sequence_tokens=100)


def test_a_chat_column_is_the_prompt_and_its_last_assistant_turn_the_demonstration(
    tokenizer: Any, tmp_path: Path
) -> None:
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    file = write_rows(tmp_path / "x.jsonl", [{"chat": chat}])
    config = DataConfig(source=file, messages="chat", reference=None, system="Be kind.")
    prompt, response, _ = PromptSource.open(config, tokenizer, 0, 100).demonstration(0)
    assert prompt.text == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert response == "hello"


def test_a_broken_chat_is_named(tokenizer: Any, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "x.jsonl", [{"chat": [{"role": "user"}]}])
    with pytest.raises(ValueError, match="row 1: message 1 needs `role` and `content`"):
        PromptSource.open(DataConfig(source=file, messages="chat", reference=None), tokenizer, 0, 100)


def test_a_missing_column_is_answered_with_those_there_are(tokenizer: Any, numbers: str) -> None:
    with pytest.raises(ValueError, match=r"`prompt`.*'qestion'.*columns are question, answer.*mean 'question'"):
        PromptSource.open(DataConfig(source=numbers, prompt="{qestion}"), tokenizer, 0, 100)
    with pytest.raises(ValueError, match=r"`reference`.*'solution'.*columns are question, answer"):
        PromptSource.open(DataConfig(source=numbers, reference="{solution}"), tokenizer, 0, 100)


def test_a_row_that_lacks_a_column_is_named(tokenizer: Any, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"question": "a", "answer": "b"}, {"question": None, "answer": "b"}, {"answer": "b"}]
    with pytest.raises(ValueError, match="row 2: column 'question' is null"):
        PromptSource.open(DataConfig(source=write_rows(tmp_path / "x.jsonl", rows)), tokenizer, 0, 100)
    with pytest.raises(ValueError, match="row 2: no column 'question'"):
        PromptSource.open(DataConfig(source=write_rows(tmp_path / "y.jsonl", rows[::2])), tokenizer, 0, 100)


def test_a_tokenizer_without_chat_template_is_refused_with_the_way_out(tokenizer: Any, numbers: str) -> None:
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token=END_TOKEN)
    with pytest.raises(ValueError, match=r"no chat template; set `template`"):
        PromptSource.open(DataConfig(source=numbers), bare, 0, 100)


def test_a_chat_template_that_refuses_a_chat_names_the_row(tokenizer: Any, numbers: str) -> None:
    from transformers import PreTrainedTokenizerFast

    strict = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        eos_token=END_TOKEN,
        chat_template="{{ raise_exception('no system messages here') }}",
    )
    with pytest.raises(ValueError, match=r"row 1: the chat template refuses it: no system messages here"):
        PromptSource.open(DataConfig(source=numbers, system="x"), strict, 0, 100)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "Q:"}, "plain template with {prompt}"),
        ({"template": "{prompt}", "system": "x"}, "`system` needs"),
        ({"template": "{prompt}", "messages": "x"}, "`messages` needs"),
        ({"prompt": "{question"}, "write a literal brace twice"),
        ({"prompt": "{}"}, "empty braces"),
        ({"reference": "{answer:.2f}"}, "formats are not understood"),
    ],
)
def test_options_that_cannot_work_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DataConfig(**options)


def test_a_tokenizer_that_starts_every_text_with_a_token_does_so_in_plain_prompts(tokenizer: Any, numbers: str) -> None:
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    start = "<|im_start|>"
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, backend.token_to_id(start))]
    )
    starting = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=start, eos_token=END_TOKEN)
    config = DataConfig(source=numbers, template="{prompt}", shuffle=False)
    prompt = PromptSource.open(config, starting, 0, 100).prompt(4)
    assert prompt.text == start + "number 4"
    assert prompt.token_ids.tolist() == starting("number 4")["input_ids"]
