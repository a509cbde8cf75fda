"""What `--help` says holds: the defaults that it prints are those that are used, and a section keeps its own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal, get_args

import pytest
from pydantic import BaseModel, Field

from raylign.jobs.cli import COMMANDS, _import, run_command_line
from raylign.jobs.config.help import default_words, help_of_keys
from raylign.jobs.config.keys import dotted_keys, fields_of, models_in
from raylign.jobs.config.loading import Layer, resolve
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.data.score_pairs import ScorePairsConfig
from raylign.learners.algorithms.registry import AlgorithmConfig

REWARDS: dict[str, Any] = {"rewards": [{"name": "exact"}]}
NEEDED: dict[str, dict[str, Any]] = {
    "train": REWARDS,
    "plan": REWARDS,
    "submit": REWARDS | {"folder": "/mnt/shared/runs/a"},
    "evaluate": REWARDS,
    "data best-of-n": REWARDS,
    "data score-pairs": REWARDS,
    "data grpo": {"metric": "bleu", "model": "a"},
    "data sft": {"input_data_path": "a"},
    "compare": REWARDS | {"new": {"model": "a"}, "reference": {"model": "b"}},
    "sweep": {"tasks": {"one": {}}},
    "sweep prep": {"tasks": {"one": {}}},
    "report": {"folder": "runs/a"},
    "data synthesize": {"task_instruction": "Add."},
    "synthetic-rl": {"task_instruction": "Add."},
    "from": {"command": "cdpo dpo"},
    "export": {"model": "runs/a", "output": "given"},
    "scale": {"run": "runs/a", "engines": 2},
}
"""Without which a command's config is refused."""


def config_class_of(command: str) -> Any:
    return _import(COMMANDS[command].config_class)


def resolved(command: str, *more: dict[str, Any]) -> Any:
    return resolve(config_class_of(command), [Layer(values) for values in (NEEDED.get(command, {}), *more)])


def section_at(config: BaseModel, key: str) -> Any:
    """The section that holds the key; None where it or one above it is empty."""
    section: Any = config
    for word in key.split(".")[:-1]:
        names = {info.alias or name: name for name, info in type(section).model_fields.items()}
        section = getattr(section, names[word], None) if word in names else None
        if not isinstance(section, BaseModel):  # empty, or one word in the place of a section
            return None
    return section


def value_of(words: str) -> Any:
    """As the command line reads a default."""
    try:
        return json.loads(words)
    except json.JSONDecodeError:
        return "" if words == "''" else words


def nested(key: str, value: Any) -> dict[str, Any]:
    for word in reversed(key.split(".")):
        value = {word: value}
    return dict(value)


def usual_default(text: str) -> str | None:
    """Of the first sentence, without what other members of a union have."""
    found = re.search(r" \(default: (.*?)(?:; \w+: .*?)?\)(?: [\w, ]+: |$)", text)
    return found[1] if found else None


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_prints_the_text_of_every_key(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_command_line([*command.split(), "--help", "all"])
    printed = "".join(capsys.readouterr().out.split())
    texts = help_of_keys(config_class_of(command))
    assert list(texts) == dotted_keys(config_class_of(command))
    for key, text in texts.items():
        said = re.escape("".join(text.split()))
        assert re.search(f"--{re.escape(key)}.{{0,300}}?{said}", printed), key  # its type stands between them


@pytest.mark.parametrize("command", list(COMMANDS))
def test_naming_the_printed_default_of_a_key_changes_nothing(command: str) -> None:
    usual = resolved(command)
    checked = 0
    for key, text in help_of_keys(config_class_of(command)).items():
        default = usual_default(text)
        section = section_at(usual, key)
        is_needed = key.split(".")[0] in NEEDED.get(command, {})
        if (
            default is None
            or is_needed
            or not isinstance(section, BaseModel)
            or key.split(".")[-1] not in fields_of(type(section))
        ):
            continue
        assert resolved(command, nested(key, value_of(default))) == usual, f"{key}: help says {default}"
        checked += 1
    assert checked or command in ("report", "from")


def classes_without_instance(command: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Sections that are empty where nothing is given, by key."""

    def walk(prefix: str, section: BaseModel) -> Iterator[tuple[str, type[BaseModel]]]:
        for name, info in type(section).model_fields.items():
            key, value = f"{prefix}{info.alias or name}", getattr(section, name)
            if isinstance(value, BaseModel):
                yield from walk(f"{key}.", value)
            elif value is None:
                yield from ((key, each) for each in models_in(info.annotation))

    yield from walk("", resolved(command))


@pytest.mark.parametrize("command", list(COMMANDS))
def test_of_an_empty_section_help_prints_what_its_class_has(command: str) -> None:
    texts = help_of_keys(config_class_of(command))
    for section, config_class in classes_without_instance(command):
        for name, info in fields_of(config_class).items():
            if not models_in(info.annotation):
                text = texts[f"{section}.{name}"]
                said = "required" if info.is_required() else f"default: {default_words(info.get_default())}"
                assert text.endswith(f"({said})"), section


@pytest.mark.parametrize("algorithm", get_args(get_args(AlgorithmConfig)[0]), ids=lambda each: each.__name__)
def test_help_prints_the_defaults_of_every_algorithm(algorithm: type[BaseModel]) -> None:
    texts = help_of_keys(TrainConfig)
    name = algorithm.model_fields["name"].default
    for key, info in algorithm.model_fields.items():
        if key != "name" and not models_in(info.annotation):
            text = texts[f"algorithm.{key}"]
            words = "required" if info.is_required() else default_words(info.get_default())
            said = (f"(default: {words})", f"(default: {words};", f"; {name}: {words}", f"({words})")
            assert any(each in text for each in said), f"{key}: {words} is not in {text}"


def test_the_printed_algorithm_is_the_one_that_is_used() -> None:
    assert help_of_keys(TrainConfig)["algorithm.name"].endswith("(default: grpo)")
    assert resolved("train").algorithm.name == "grpo"


def test_members_of_a_union_that_mean_something_else_by_a_key_are_named() -> None:
    texts = help_of_keys(TrainConfig)
    assert (
        "(default: 0.28; dr_grpo: 0.2; reinforce_plus_plus: 0.2) gspo: Sequence ratios over"
        in texts["algorithm.clip_high"]
    )
    assert " sail: Subtracted from F" in texts["algorithm.baseline"]


# a section that is given in part


def test_a_section_keeps_its_own_defaults_when_one_of_its_keys_is_given() -> None:
    config = resolved("data score-pairs", {"data": {"source": "pairs.jsonl", "pairs": {"keep": "start"}}})
    assert isinstance(config, ScorePairsConfig)
    assert (config.data.source, config.data.pairs.keep) == ("pairs.jsonl", "start")
    assert (config.data.prompt, config.data.reference, config.data.shuffle) == ("{prompt}", None, False)
    assert resolved("data score-pairs", {"data": {"shuffle": True}}).data.shuffle is True


class Inner(BaseModel, extra="forbid"):
    a: int = 1
    b: int = 2


class Middle(BaseModel, extra="forbid"):
    inner: Inner = Inner(a=10)
    c: int = 3


class Outer(BaseModel, extra="forbid"):
    middle: Middle = Middle(c=30)
    items: list[Middle] = []
    optional: Middle | None = Middle(inner=Inner(b=20))


@pytest.mark.parametrize(
    ("given", "key", "expected"),
    [
        ({}, "middle", Middle(c=30)),
        ({"middle": {"inner": {"b": 5}}}, "middle", Middle(c=30, inner=Inner(a=10, b=5))),
        ({"middle": {"c": 4}}, "middle", Middle(c=4, inner=Inner(a=10))),
        ({"items": [{"inner": {"b": 5}}]}, "items", [Middle(inner=Inner(a=10, b=5))]),
        ({"optional": {"c": 4}}, "optional", Middle(c=4, inner=Inner(b=20))),
        ({"optional": {"inner": {"a": 5}}}, "optional", Middle(inner=Inner(a=5, b=20))),
        ({"optional": None}, "optional", None),
    ],
)
def test_defaults_lie_below_what_is_given_at_every_depth(given: dict[str, Any], key: str, expected: object) -> None:
    assert getattr(resolve(Outer, [Layer(given)]), key) == expected


class One(BaseModel, extra="forbid"):
    name: Literal["one"] = "one"
    a: int = 1
    b: int = 2


class Two(BaseModel, extra="forbid"):
    name: Literal["two"] = "two"
    b: int = 3


class OneOfTwo(BaseModel, extra="forbid"):
    kind: One | Two = Field(One(a=10), discriminator="name")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"b": 5}, One(a=10, b=5)),
        ({"name": "one", "b": 5}, One(a=10, b=5)),
        ({"name": "two"}, Two()),
        ({"name": "two", "b": 5}, Two(b=5)),
    ],
)
def test_another_member_of_a_union_does_not_get_the_keys_of_the_default_one(
    given: dict[str, Any], expected: One | Two
) -> None:
    assert resolve(OneOfTwo, [Layer({"kind": given})]).kind == expected


def help_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        run_command_line(words)
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", ["train", "plan"])
def test_help_begins_with_the_keys_that_matter_and_says_where_the_rest_is(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    page = help_of([command, "--help"], capsys)
    assert page.count("\n") < 60 and f"raylign {command} --help all" in page
    assert set(TrainConfig.first_keys) <= set(dotted_keys(TrainConfig))
    assert [key for key in TrainConfig.first_keys if f"  --{key} " not in page] == []


def test_help_of_a_recipe_has_what_it_sets_and_its_algorithms_keys_on_one_page(
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = help_of(["train", "--config", "bdr_online_fixed_tiny", "--help"], capsys)
    lines = page.splitlines()
    assert len(lines) < 60 and lines[2].startswith("BDR_Online, fixed")
    by_key = {line.split()[0]: line for line in lines if line.startswith("  --")}
    assert by_key["--algorithm.masked_share"].split()[1] == "0.3"
    assert "(default: 0.5)" in by_key["--algorithm.upper_share"]
    assert "--algorithm.clip_low" not in by_key and "--learner.zero_stage" not in by_key  # of another; not set
    assert "--help all" in lines[-1]


def test_help_of_recipes_merges_them_and_of_a_wrong_one_is_an_error(
    tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text("seed: 77\nalgorithm: {masked_share: 0.7}\n")
    words = ["train", "--config", "bdr_online_fixed_tiny", f"--config={tmp_path / 'mine.yaml'}", "--help"]
    page = help_of(words, capsys)
    assert re.search(r"--seed +77 ", page) and re.search(r"--algorithm.masked_share +0.7 ", page)
    assert run_command_line(["train", "--config", "bdr_onlin_fixed_tiny", "--help"]) == 2
    assert "did you mean the recipe bdr_online_fixed_tiny?" in capsys.readouterr().err


def test_help_of_a_section_or_a_key_has_its_whole_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    texts = help_of_keys(TrainConfig)
    page = "".join(help_of(["train", "--help", "learner.lora"], capsys).split())
    own = [key for key in texts if key.startswith("learner.lora.")]
    assert len(own) == page.count("--learner.lora.") and all("".join(texts[key].split()) in page for key in own)
    assert "--algorithm.masked_share" in help_of(["train", "--help", "masked_share"], capsys)
    assert run_command_line(["train", "--help", "lerner"]) == 2
    assert "did you mean learner?" in capsys.readouterr().err


def test_a_template_with_a_line_break_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_command_line(["train", "--config", "bdr_online_blueorca_redorca", "--help"])
    lines = capsys.readouterr().out.split("\n")
    assert not any(line.startswith("Assistant:") for line in lines)
    assert any(line.lstrip().startswith("--data.template ") and "\\nAssistant:" in line for line in lines)
