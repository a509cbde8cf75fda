"""Every recipe resolves to the config that it had when the outputs were frozen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.frozen.command_line import recipe_names
from tests.frozen.printed_configs import FOLDER, compare, frozen_recipes


def test_every_recipe_is_frozen() -> None:
    assert frozen_recipes() == recipe_names(), "new recipes: python -m tests.frozen write print_config"


@pytest.mark.parametrize("recipe", frozen_recipes())
def test_a_recipe_prints_its_frozen_config(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # nothing in it may depend on where it is printed
    assert compare(recipe) == ""


def test_no_frozen_config_names_this_machine() -> None:
    """An absolute path would be one of the machine that it was made on."""
    lines = [line for path in FOLDER.glob("*.yaml") for line in path.read_text().splitlines()]
    assert len(lines) > 1000
    assert [line for line in lines if ": /" in line] == []
