"""Lists of words and numbers on the command line: word by word or as JSON, in every command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from raylign.jobs.cli import COMMANDS
from raylign.jobs.config.loading import ConfigError, parse_words
from raylign.jobs.config.word_lists import word_list_keys
from tests.jobs.config.test_help import config_class_of


class Inner(BaseModel):
    stop: list[str] = []
    betas: tuple[float, float] = (0.9, 0.95)


class Lists(BaseModel):
    names: list[str] = ["gold"]
    sizes: list[int] | None = None
    folders: list[Path] = []
    modules: list[str] | Literal["all-linear"] = "all-linear"
    inner: Inner = Inner()
    resume: bool = False


def given(*words: str) -> Lists:
    (flags,) = parse_words(Lists, list(words), "raylign").layers
    return Lists.model_validate(flags.values)


@pytest.mark.parametrize(
    ("words", "key", "expected"),
    [
        ("--names gold o4-mini-2025-04-16", "names", ["gold", "o4-mini-2025-04-16"]),
        ('--names ["gold","x"]', "names", ["gold", "x"]),
        ("--names gold", "names", ["gold"]),
        ("--names 3 6", "names", ["3", "6"]),
        ("--names=gold", "names", ["gold"]),
        ("--names a --names b", "names", ["a", "b"]),
        ("--names []", "names", []),
        ("--sizes 3 6 8", "sizes", [3, 6, 8]),
        ("--sizes [3,6,8]", "sizes", [3, 6, 8]),
        ("--sizes [3, 6, 8]", "sizes", [3, 6, 8]),
        ("--sizes 3,6", "sizes", [3, 6]),
        ("--sizes 8 --resume", "sizes", [8]),
        ("--sizes null", "sizes", None),
        ("--folders a/b c", "folders", [Path("a/b"), Path("c")]),
        ("--modules q_proj v_proj", "modules", ["q_proj", "v_proj"]),
        ("--modules all-linear", "modules", "all-linear"),
    ],
)
def test_a_list_is_given_word_by_word_or_as_json(words: str, key: str, expected: object) -> None:
    assert getattr(given(*words.split(" ")), key) == expected


def test_lists_within_sections_and_words_with_commas_quotes_and_backslashes() -> None:
    odd = ["a, b", 'say "no"', "\\n", "{x}", "-1"]
    assert given("--inner.stop", *odd[:4], "--inner.betas", "0.8", "0.99").inner == Inner(
        stop=odd[:4], betas=(0.8, 0.99)
    )
    assert given("--inner.stop", json.dumps(odd)).inner.stop == odd


def test_a_list_that_is_no_json_says_both_forms() -> None:
    with pytest.raises(ConfigError, match=r"--sizes: \[3,6 is no JSON list; give the words one after another"):
        given("--sizes", "[3,6")


LISTS = [(command, key) for command in COMMANDS for key in word_list_keys(config_class_of(command))]


@pytest.mark.parametrize(("command", "key"), LISTS)
def test_every_list_of_every_command_takes_words_and_json_alike(command: str, key: str) -> None:
    def read(*words: str) -> Any:
        value: Any = parse_words(config_class_of(command), [f"--{key}", *words], "raylign").layers[-1].values
        for word in key.split("."):
            value = value[word]
        return [str(item) for item in value]

    assert read("2", "5") == read('["2", "5"]') == read("[2, 5]") == ["2", "5"]


def test_the_lists_of_the_commands_are_found() -> None:
    assert {("data best-of-n", "best_of"), ("train", "sampling.stop"), ("train", "learner.lora.target_modules")} < set(
        LISTS
    )
    assert not any(key.endswith(("rewards", "judge.endpoints", "sft.grid")) for _, key in LISTS)
