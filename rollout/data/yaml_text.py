"""The one reader of YAML: recipes, the configs of run folders, parameters of generated data.

Given a text and the name of where it stands; gives its value, and the line of every key. What cannot be read, or grows
without end as it is read (aliases of aliases, an alias inside itself, brackets in brackets), is a ValueError with file
and line.
"""

from __future__ import annotations

from typing import Any

import yaml

from raylign.rollout.data.json_lines import MAX_DEPTH

MAX_CHARACTERS = 1 << 20
MAX_NODES = 100_000
"""Keys and values, those that aliases repeat counted each time."""
Places = dict[tuple[int | str, ...], str]
"""`recipe.yaml:7`, by key path."""


def read_yaml(text: str, name: str) -> tuple[Any, Places]:
    """None and no places where there is nothing but comments."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"{name}: {len(text):,} characters; a file of settings has at most {MAX_CHARACTERS:,}")
    places: Places = {}
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None, places
        _Walk(name, places).note(node, ())
        return loader.construct_document(node), places
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ValueError(f"{name}:{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{name}: not a YAML text file: {error}") from None
    except RecursionError:
        raise ValueError(f"{name}: lists and sections are nested too deep; at most {MAX_DEPTH} are read") from None


def yaml_value(text: str, name: str) -> Any:
    """The value alone."""
    return read_yaml(text, name)[0]


class _Walk:
    """Once through the nodes, aliases followed."""

    def __init__(self, name: str, places: Places) -> None:
        self._name = name
        self._places = places
        self._num_nodes = 0

    def note(self, node: yaml.Node, path: tuple[int | str, ...]) -> None:
        self._num_nodes += 1
        here = f"{self._name}:{node.start_mark.line + 1}"
        if self._num_nodes > MAX_NODES:
            raise ValueError(
                f"{here}: more than {MAX_NODES:,} keys and values, aliases (*name) counted as what they mean"
            )
        if len(path) > MAX_DEPTH:
            raise ValueError(f"{here}: nested more than {MAX_DEPTH} deep, or an alias (*name) stands inside itself")
        if isinstance(node, yaml.MappingNode):
            for key_node, value_node in node.value:
                key_path = (*path, key_node.value if isinstance(key_node, yaml.ScalarNode) else "?")
                place = f"{self._name}:{key_node.start_mark.line + 1}"
                if key_path in self._places:
                    raise ValueError(f"{place}: {key_path[-1]} is given twice, first in {self._places[key_path]}")
                self._places[key_path] = place
                self.note(value_node, key_path)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self._places[(*path, index)] = f"{self._name}:{item.start_mark.line + 1}"
                self.note(item, (*path, index))
        elif node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:timestamp"):
            self._check_scalar(node, here)

    def _check_scalar(self, node: yaml.Node, here: str) -> None:
        try:
            yaml.SafeLoader("").construct_object(node)
        except ValueError as error:  # thousands of digits, a 32nd of January
            raise ValueError(f"{here}: {str(node.value)[:80]!r} cannot be read: {error}") from None
