"""From command-line words and YAML recipes to a checked config, or to readable problems.

Given a config class and words such as `--config a.yaml --config b.yaml --sampling.temperature 0.7`; gives the
config: flags win over files, later files over earlier ones, files over defaults. Raises `ConfigError`, one line
for each problem.
"""

from __future__ import annotations

import argparse
import importlib.resources
import itertools
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import yaml
from pydantic import BaseModel, ValidationError, create_model
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsError

from raylign.jobs.config.defaults import merged, with_defaults
from raylign.jobs.config.help import describe_item_keys, help_of_keys
from raylign.jobs.config.help_pages import HelpRequest, help_page, help_request
from raylign.jobs.config.keys import KeyPath, dotted_keys, nearest, readable_problems
from raylign.jobs.config.word_lists import WordList, word_list_keys
from raylign.jobs.originals.hints import original_words_hint
from raylign.rollout.data.yaml_text import read_yaml, yaml_value

Config = TypeVar("Config", bound=BaseModel)


class ConfigError(ValueError):
    """The configuration is wrong; the message has one line for each problem."""


@dataclass
class Layer:
    """One source of values, and where in it each key stands."""

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, str] = field(default_factory=dict)
    """`recipe.yaml:7` or `--seed`, by key path."""


@dataclass(frozen=True)
class ParsedWords:
    """What the command line said."""

    layers: list[Layer]
    """Recipes in order, then the flags."""
    print_config: bool


def load_config(
    config_class: type[Config], files: Sequence[str | Path], overrides: Mapping[str, Any] | None = None
) -> Config:
    """The config from recipe files and, above them, nested values."""
    layers = [read_recipe(find_recipe(str(file))) for file in files]
    return resolve(config_class, [*layers, Layer(dict(overrides or {}))])


def resolve(config_class: type[Config], layers: Sequence[Layer]) -> Config:
    """Merge defaults and layers, later ones above, and validate once, so that all problems show together."""
    values: dict[str, Any] = {}
    for layer in layers:
        values = merged(values, layer.values)
    try:
        return config_class.model_validate(with_defaults(config_class, values))
    except ValidationError as error:
        raise ConfigError("\n".join(readable_problems(config_class, error, [_places(layers)]))) from None


def _places(layers: Sequence[Layer]) -> dict[KeyPath, str]:
    """Where the values stand that won: what a later layer replaces as a whole takes the places inside with it."""
    places: dict[KeyPath, str] = {}
    for layer in layers:
        for path, place in layer.places.items():
            if not isinstance(_value_at(layer.values, path), dict):
                places = {old: where for old, where in places.items() if old[: len(path)] != path}
            places[path] = place
    return places


def _value_at(value: Any, path: KeyPath) -> Any:
    """None where there is none: places say `1` and `<<` as they are written."""
    for step in path:
        if isinstance(value, list) and isinstance(step, int):
            value = value[step]
        else:
            value = value.get(step) if isinstance(value, dict) else None
    return value


def config_yaml(config: BaseModel) -> str:
    """The resolved config as a recipe that gives the same config again."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def completed(config_class: type[BaseModel], text: str) -> str:
    """A resolved config of before, with the defaults of the keys that came since; as it is where it cannot be read."""
    try:
        return config_yaml(resolve(config_class, [Layer(yaml_value(text, "config.yaml"))]))
    except (ValueError, TypeError, AttributeError):
        return text


# files


def find_recipe(name: str) -> Path:
    """A file, or one of the recipes that come with raylign, by name."""
    if Path(name).is_file():
        return Path(name)
    shipped = {
        entry.name.removesuffix(".yaml"): Path(str(entry))
        for entry in (importlib.resources.files("raylign.jobs") / "recipes").iterdir()
        if entry.name.endswith(".yaml")
    }
    word = Path(name).name.removesuffix(".yaml")  # a name may hold a point: qwen2.5
    if Path(name).parent == Path() and word in shipped:
        return shipped[word]
    if Path(name).is_dir():
        files = ", ".join(sorted(path.name for path in Path(name).glob("*.yaml"))[:5])
        raise ConfigError(f"--config {name}: a folder; name a file in it: {files or 'it has no .yaml'}")
    if hint := nearest(word, shipped):
        raise ConfigError(f"--config {name}: no such file; did you mean the recipe {hint}?")
    names = textwrap.fill(", ".join(sorted(shipped)), 100)
    raise ConfigError(f"--config {name}: no such file. Recipes that come with raylign:\n{names}")


def read_recipe(path: Path) -> Layer:
    """A YAML file with the line of every key."""
    try:
        values, places = read_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a YAML text file: {error}") from None
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if values is None and not places:
        return Layer()
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, found {type(values).__name__}")
    return Layer(values, places)


# command line


class _Parser(argparse.ArgumentParser):
    """Raises instead of exiting, so that callers decide; names the nearest known option."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message.removeprefix("argument "))


def parse_words(config_class: type[BaseModel], words: list[str], program: str) -> ParsedWords:
    """Read options; `--help` prints a page or, as `--help all`, every key with its default and a sentence, and ends."""
    if (request := help_request(words)) is not None:
        _print_help_page(config_class, request, program)
        words = ["--help"]
    parser = _Parser(
        prog=program,
        usage=f"{program} [--config RECIPE.yaml ...] [--section.key VALUE ...]",
        description=config_class.__doc__,
        epilog=describe_item_keys(config_class) or None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="FILE",
        help="YAML recipe, or the name of one that comes with raylign; several are merged, later ones win.",
    )
    parser.add_argument("--print-config", action="store_true", help="Print the resolved config and exit.")
    bases: Any = (config_class, BaseSettings)
    settings_class = cast(type[BaseSettings], create_model(config_class.__name__, __base__=bases))
    source: CliSettingsSource[Any] = CliSettingsSource(
        settings_class,
        root_parser=parser,
        add_argument_method=partial(_add_argument, help_of_keys(config_class), word_list_keys(config_class)),
        cli_parse_none_str="null",
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_use_class_docs_for_groups=True,
    )
    namespace, unknown = parser.parse_known_args(words)
    if unknown:
        raise ConfigError("\n".join(_unknown_options(config_class, unknown, words, program)))
    given = vars(namespace)
    files, print_config = given.pop("config"), given.pop("print_config")
    try:
        flags = Layer(source(parsed_args=given)())
    except SettingsError as error:  # a list or section that is no JSON
        raise ConfigError(f"{error}; values of lists are JSON, for instance '[1, 2]'") from None
    _note_flags(flags.values, (), flags.places)
    return ParsedWords([*(read_recipe(find_recipe(file)) for file in files), flags], print_config)


def _print_help_page(config_class: type[BaseModel], request: HelpRequest, program: str) -> None:
    """And end; returns where everything is to be printed."""
    paths = [find_recipe(file) for file in request.recipes]
    values: dict[str, Any] = {}
    for path in paths:
        values = merged(values, read_recipe(path).values)
    heads = [line[1:].strip() for path in paths for line in _head_comment(path)]
    try:
        page = help_page(config_class, request, values, "\n".join(heads), program)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if page is not None:
        print(page)
        raise SystemExit(0)


def _head_comment(path: Path) -> list[str]:
    """What a recipe says of itself above its first key."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return list(itertools.takewhile(lambda line: line.startswith("#"), lines))


def _add_argument(
    help_texts: Mapping[str, str], word_lists: Mapping[str, type[WordList]], parser: Any, *names: str, **options: Any
) -> Any:
    """As argparse's, but a switch may be `--resume`, `--resume true` or `--resume false`, a list of words may be given
    word by word, and the default that help tells is the one that is used: pydantic-settings tells that of the class,
    in a union that of the last member."""
    key = names[-1].removeprefix("--")
    if help_text := help_texts.get(key):
        options["help"] = help_text.replace("%", "%%")
    if key in word_lists:
        options |= {"nargs": "+", "action": word_lists[key]}
    if options.get("metavar") == "bool":
        options |= {"nargs": "?", "const": "true", "metavar": "true|false"}
    return parser.add_argument(*names, **options)


def _unknown_options(
    config_class: type[BaseModel], unknown: Sequence[str], words: Sequence[str], program: str
) -> list[str]:
    """Words of the published programs are answered with our whole command line, others with the nearest key."""
    known = [*dotted_keys(config_class), "config", "print-config", "help"]
    hint = original_words_hint(program.removeprefix("raylign "), words, known)
    problems = []
    for word in unknown:
        if word.startswith("--") and word not in hint.explained:
            key = word[2:].split("=")[0]
            near = nearest(key, known)
            problems.append(f"--{key}: unknown option" + (f"; did you mean --{near}?" if near else ""))
    return [*problems, *hint.lines] or [f"{unknown[0]}: unexpected; options are written --section.key value"]


def _note_flags(values: dict[str, Any], path: KeyPath, places: dict[KeyPath, str]) -> None:
    for key, value in values.items():
        places[(*path, key)] = "--" + ".".join(map(str, (*path, key)))
        if isinstance(value, dict):
            _note_flags(value, (*path, key), places)
