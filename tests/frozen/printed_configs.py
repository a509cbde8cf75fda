"""What `--print-config` says for every recipe, frozen in `print_config/<recipe>.yaml`.

The first line of a file is the command that made it; the rest is what the command printed.
"""

from __future__ import annotations

from tests.frozen.command_line import FROZEN, printed_by, recipe_names
from tests.frozen.differences import text_difference

FOLDER = FROZEN / "print_config"
COMMAND_OF_PREFIX = {
    "evaluate": "evaluate",
    "best_of_n": "data best-of-n",
    "compare": "compare",
    "sweep": "sweep",
    "synthetic_rl": "synthetic-rl",
}
"""Which command a recipe is for, by how its name begins; all others are for `train`."""


def printed_config(recipe: str) -> str:
    """The command and what it prints."""
    command = next((name for prefix, name in COMMAND_OF_PREFIX.items() if recipe.startswith(prefix)), "train")
    words = [*command.split(), "--config", recipe, "--print-config"]
    return f"# raylign {' '.join(words)}\n{printed_by(words)}"


def frozen_recipes() -> list[str]:
    """Recipes that a file is kept of."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def compare(recipe: str) -> str:
    """The difference; empty where there is none."""
    return text_difference((FOLDER / f"{recipe}.yaml").read_text(), printed_config(recipe))


def write() -> None:
    """Every recipe anew; files of recipes that are gone go."""
    FOLDER.mkdir(exist_ok=True)
    for recipe in recipe_names():
        (FOLDER / f"{recipe}.yaml").write_text(printed_config(recipe))
    for recipe in set(frozen_recipes()) - set(recipe_names()):
        (FOLDER / f"{recipe}.yaml").unlink()
