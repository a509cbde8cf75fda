"""Whoever types the words of a published program to raylign is told ours: each row of the pages is typed here."""

from __future__ import annotations

import shlex

import pytest

from raylign.jobs.cli import run_command_line
from raylign.jobs.originals.command_words import take_apart
from raylign.jobs.originals.hints import original_words_hint
from raylign.jobs.originals.pages import Name, Row, all_rows, rows_of_page
from raylign.jobs.originals.search import find_rows, names_of
from raylign.jobs.originals.translate import translate_command
from raylign.jobs.originals.values import ONLY_ONLINE, SAID_ONLY, TEMPLATES

PROGRAMS = {"run_llama3_8b_blueorca_redorca.sh", "bipost.cli.train_selector", "cdpo", "train.py", "evalreward_bt.py"}
COMMANDS = [
    (row, words)
    for row in all_rows()
    for words in (row.commands if row.base is None else ())
    if take_apart(words).program in PROGRAMS | {"best_and_worst_of_n_sampler.py", "streamlit"}
]
KEYS = [(row, name) for row in all_rows() for name in names_of(row)]
PROSE = [row for row in all_rows() if not names_of(row) and row not in [row for row, _ in COMMANDS]]


def of_row(each: object) -> str:
    return f"{each.place}" if isinstance(each, Row) else str(getattr(each, "word", ""))


@pytest.mark.parametrize(("row", "words"), COMMANDS, ids=of_row)
def test_an_original_command_gives_ours(row: Row, words: list[str]) -> None:
    found = translate_command(words)
    assert found is not None
    if row.command is None:
        assert not found.words and row.note in " ".join(found.notes)
    else:
        assert found.words == shlex.split(row.command)[1:], found.notes
        assert not found.not_found


@pytest.mark.parametrize(("row", "name"), KEYS, ids=of_row)
def test_an_option_of_an_original_gives_our_key_or_says_why_there_is_none(row: Row, name: Name) -> None:
    """As if it were one of ours, on the command that the row is about."""
    value = (name.value or name.example or "7").strip("[]").split(" ")[0].rstrip(",")
    typed = [f"{name.dashes}{name.word}", value] if name.dashes else [f"{name.word}={value}"]
    base = shlex.split(row.base or "raylign train --config bdr_online_blueorca_redorca")
    first = next(place for place, word in enumerate(base) if word.startswith("--"))
    known = [word.lstrip("-") for word in base[first:] if word.startswith("--")]
    if name.word in known and name.dashes in ("", "--"):
        return  # ours has the same name, so nobody needs to be told
    hint = original_words_hint(" ".join(base[1:first]), [*base[first:], *typed], known)
    assert hint.explained == frozenset([typed[0]]), hint.lines
    rows = [each for each, other in KEYS if other.word == name.word]  # a word may be on several pages
    said = " ".join(hint.lines)
    assert any(all(key in said for key in each.keys if key.startswith("--")) for each in rows) or (
        any(key in said for key in row.keys if key.startswith("--"))
        or any(each.note and each.note in said for each in rows)
    ), said


@pytest.mark.parametrize("row", PROSE, ids=of_row)
def test_a_row_of_prose_is_found_by_its_words(row: Row) -> None:
    assert row in find_rows(row.original)


def test_conversions_are_of_words_that_the_pages_have() -> None:
    known = {(row.page, f"-{name.word}" if name.dashes == "-" else name.word) for row, name in KEYS}
    named = {*TEMPLATES, *((page, word.partition("@")[0]) for page, word in SAID_ONLY)}
    assert sorted(named - known) == []
    assert sorted(word for word in ONLY_ONLINE if ("bdr", word) not in known) == []


@pytest.mark.parametrize(
    ("typed", "ours"),
    [
        ("train --selector_mode BDR_Online", "raylign train --config bdr_online_blueorca_redorca"),
        (
            "train --config bdr_online_fixed_tiny --dynamic_mode --online_sample_ratio 0.3",
            "raylign train --config bdr_online_fixed_tiny --algorithm.dynamic --algorithm.masked_share 0.3",
        ),
        (
            "train --config bdr_online_fixed_tiny --online_generation_freq 250 --num_steps 9",
            "raylign train --config bdr_online_fixed_tiny --num_steps 9 --algorithm.generation_every_steps 250",
        ),
        (
            "train --online_sample_size 4",
            "raylign train --config bdr_online_blueorca_redorca --sampling.num_completions 4",
        ),
        ("train --config mine.yaml --wandb_run_name x", "raylign train --config mine.yaml --name x"),
        ("train loss=bonbon", "raylign train --config bonbon_hh --algorithm.alpha 0.005"),
        (
            "cdpo dpo -p DDP -d U10 -m Q4B -t x --beta 0.2 --r 0.3",
            "raylign train --config sail_ddp --algorithm.beta 0.2 --algorithm.ddp.share 0.3 "
            "--data.source openbmb/UltraFeedback --data.pairs.format ultrafeedback --data.template '[INST] {prompt} "
            "[/INST] ' --data.split_seed 42 --data.rows 2000:10000 "
            "--model.path Qwen/Qwen1.5-4B --name x",
        ),
        (
            "python -u train.py model=pythia69 datasets=[hh] loss=dpo loss.beta=0.2 batch_size=32 n_examples=3200",
            "raylign train --config dpo_hh --algorithm.beta 0.2 --model.path EleutherAI/pythia-6.9b "
            "--rollout.prompts_per_step 32 --num_steps 100",
        ),
        (
            "python -u train.py model=pythia28 datasets=[hh,shp] loss=dpo",
            """raylign train --config dpo_hh --more_data '[{"source": "stanfordnlp/SHP", "prompt": "{prompt}", """
            """"reference": null, "template": "{prompt}", "pairs": {"format": "shp", "max_prompt_tokens": 256, """
            """"keep": "start", "skip_unusable": true}}]'""",
        ),
        (
            "python -u train.py model=pythia28 datasets=[shp] loss=dpo",
            "raylign train --config dpo_hh --data.source stanfordnlp/SHP --data.pairs.format shp "
            "--evaluation.pairs null",
        ),
        (
            "python best_and_worst_of_n_sampler.py --n_seq 4,16 --maxlen 128",
            "raylign data best-of-n --config best_of_n_hh --best_of '[4, 16]' --sampling.max_tokens 128",
        ),
        (
            "deepspeed --num_gpus 8 --module bipost.cli.train_selector --selector_mode BDR --adam_betas 0.9 0.99 "
            "--max_samples_2 1e4 --lora_rank 0",
            "raylign train --config bdr_blueorca_redorca --learner.adam_betas '[0.9, 0.99]' --data.rows 0:10000 "
            "--learner.lora null",
        ),
    ],
)
def test_what_is_typed_to_us_is_answered_with_our_whole_command(
    typed: str, ours: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(shlex.split(typed)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [shlex.split(line) for line in lines if line.startswith("raylign ")] == [shlex.split(ours)]


@pytest.mark.parametrize(
    ("typed", "ours", "said"),
    [
        ("cdpo dpo -p DPR", "--config sail_dpr", ""),
        ("cdpo clear -t first", None, "Delete the run folder"),
        ("python -m bipost.cli.train_selector --selector_mode BMO", None, "without a trainer"),
        (
            "bash run_llama3_8b_blueorca_redorca.sh --filter_rate 0.2",
            "--config bdr_blueorca_redorca",
            "acts in BDR_Online",
        ),
        ("labels swapped on DDP rows", "--config sail_mix --algorithm.swap_labels true", "commented it out"),
        ("cdpo dpo -p XYZ", "--config sail_dpo", "known there for DPO, DDP, DPP, DPR, MIX alone"),
        ("cdpo dpo -p DPO --beta x'", None, "cannot be read as a command"),
        ("python something_else.py", None, "on no page"),
        ("python -u train.py loss=dpo loss.beta=0.1 x=3", "--config dpo_hh --algorithm.beta 0.1", "x=3: left out"),
        ("python -u train.py loss=dpo n_examples=many", "--config dpo_hh", "'many' is no number"),
    ],
)
def test_from_prints_ours_and_says_what_has_no_counterpart(
    typed: str, ours: str | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(["from", typed]) == (0 if ours else 2)
    printed = capsys.readouterr()
    assert printed.out == (f"raylign train {ours}\n" if ours else "") and said in printed.err


@pytest.mark.parametrize("words", [["from", ""], ["from"], ["from", " "], ["from", "--command", ""]])
def test_from_without_words_says_what_to_give(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(words) == 2
    assert 'as in raylign from "cdpo dpo -p DDP --beta 0.1"' in capsys.readouterr().err


def test_an_option_on_no_page_of_a_command_typed_to_us_is_said_to_be_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_command_line(["create_training_data.py", "grpo", "--metric", "bleu", "--foo", "3"]) == 2
    err = capsys.readouterr().err
    assert "--foo 3: left out" in err and "\nraylign data grpo --metric bleu\n" in err


def test_a_misspelt_key_of_ours_is_still_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["train", "--config", "bdr_tiny", "--online_sample_ratio", "0.2", "--num_stpes", "3"]) == 2
    err = capsys.readouterr().err
    assert "--num_stpes: unknown option; did you mean --num_steps?" in err
    assert "\nraylign train --config bdr_tiny --algorithm.masked_share 0.2\n" in err


def test_a_key_of_ours_without_its_section_is_ours_and_no_word_of_another_program(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_command_line(["train", "--temperature", "0.5", "--learning_rate", "1e-5"]) == 2
    err = capsys.readouterr().err
    assert "did you mean --sampling.temperature?" in err and "did you mean --learner.learning_rate?" in err
    assert "unknown option; it is of" not in err


def test_a_bar_within_a_cell_and_a_table_of_something_else_are_read_as_such() -> None:
    table = "| original | ours | note |\n|---|---|---|\n| `a` | `--seed 1` | x \\| y |\n"
    (row,) = rows_of_page("t.md", f"# T\n\n`raylign train`\n\n{table}\n| k | v |\n|--|--|\n| 1 | 2 |\n")
    assert (row.title, row.note, row.command) == ("T", "x | y", "raylign train --seed 1")
