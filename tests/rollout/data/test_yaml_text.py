"""YAML that grows, turns in circles or cannot be read is an error with file and line, in a moment."""

from __future__ import annotations

import time

import pytest

from raylign.rollout.data.yaml_text import read_yaml, yaml_value

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, r"recipe\.yaml:1: more than 100,000 keys and values, aliases"),
        ("seed: 1\na: &a\n  b: *a\n", r"recipe\.yaml:2: nested more than 100 deep, or an alias"),
        ("a: &a [*a]\n", r"recipe\.yaml:1: nested more than 100 deep, or an alias"),
        ("a: " + "[" * 5000 + "]" * 5000, r"recipe\.yaml: lists and sections are nested too deep"),
        ("a: " + "[" * 5000, r"recipe\.yaml"),
        ("a: " + "{b: " * 120 + "1" + "}" * 120, r"recipe\.yaml.* nested"),
        ("name: x\nseed: " + "1" * 5000, r"recipe\.yaml:2: '1{80}' cannot be read: Exceeds the limit"),
        ("day: 2001-02-31", r"recipe\.yaml:1: '2001-02-31' cannot be read: day is out of range"),
        ("? [a, b]\n: 1\n", r"recipe\.yaml:1: not valid YAML: found unhashable key"),
        ("a: !!python/object/apply:os.system [id]\n", r"recipe\.yaml:1: not valid YAML: could not determine"),
        ("a: 1\n---\nb: 2\n", r"recipe\.yaml:2: not valid YAML: but found another document"),
        ("a: \x00\n", r"recipe\.yaml: not a YAML text file"),
        ("#" * (1 << 20) + "\n", r"recipe\.yaml: 1,048,577 characters; a file of settings has at most 1,048,576"),
    ],
)
def test_what_cannot_be_read_names_file_and_line(text: str, said: str) -> None:
    began = time.process_time()
    with pytest.raises(ValueError, match=said) as found:
        read_yaml(text, "recipe.yaml")
    assert len(str(found.value)) < 400
    assert time.process_time() - began < 10


def test_aliases_of_ordinary_use_are_read_and_have_their_places() -> None:
    text = "base: &base {a: 1, b: [2, 3]}\nother: *base\nthird:\n  <<: *base\n  a: 4\n"
    values, places = read_yaml(text, "r")
    assert values["other"] == {"a": 1, "b": [2, 3]}
    assert values["third"] == {"a": 4, "b": [2, 3]}
    assert (places["base", "b", 1], places["third", "a"]) == ("r:1", "r:5")
    assert yaml_value("# nothing\n", "r") is None
