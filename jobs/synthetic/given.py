"""What the user gives beside the definition: demonstrations and a test set, in either spelling of the columns.

Given a config; gives the demonstrations, at most `num_demos`, and the test rows as they are, with what looks wrong:
rows without text, a test set that shares inputs with the demonstrations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raylign.jobs.synthetic.config import SynthesizeConfig
from raylign.jobs.synthetic.prompts import Demo
from raylign.jobs.synthetic.rows import same_text
from raylign.rollout.data.sources import is_saved_by_datasets, read_rows

COLUMNS = (("input", "output"), ("Input", "Output"))


@dataclass(frozen=True)
class Given:
    """Read once, before anything starts."""

    demos: tuple[Demo, ...] = ()
    test: tuple[Demo, ...] = ()
    warnings: tuple[str, ...] = ()


def read_given(config: SynthesizeConfig) -> Given:
    """ValueErrors name the file and what it should hold."""
    demos: list[Demo] = []
    warnings: list[str] = []
    if config.demo_examples is not None:
        demos = _demos(config.demo_examples, "train", "demo_examples", warnings)
    elif config.dataset_path is not None and config.num_demos and "train" in _splits(config.dataset_path):
        demos = _demos(config.dataset_path, "train", "dataset_path", warnings)
    demos = demos[: config.num_demos]
    test: list[Demo] = []
    if config.dataset_path is not None and "test" in _splits(config.dataset_path):
        test = _demos(config.dataset_path, "test", "dataset_path", warnings)
    shown = {same_text(demo.input) for demo in demos}
    if overlap := sum(same_text(row.input) in shown for row in test):
        warnings.append(
            f"{overlap} of {len(test)} test rows have the input of a demonstration: accuracy on them says little"
        )
    return Given(tuple(demos), tuple(test), tuple(warnings))


def _splits(path: Path) -> list[str]:
    """Of a saved DatasetDict."""
    if not is_saved_by_datasets(path):
        raise ValueError(
            f"dataset_path is {path}: not a folder that `datasets` saved (DatasetDict.save_to_disk) with train and test"
        )
    return sorted(child.name for child in path.iterdir() if child.is_dir())


def _demos(path: Path, split: str, key: str, warnings: list[str]) -> list[Demo]:
    rows = read_rows(str(path), split=split)
    names = next((names for names in COLUMNS if all(name in rows[0] for name in names)), None)
    if names is None:
        raise ValueError(f"{key} is {path}: its columns are {', '.join(rows[0])}; Input and Output are needed")
    found = _texts(rows, names)
    if len(found) < len(rows):
        warnings.append(f"{path} ({split}): {len(rows) - len(found)} of {len(rows)} rows have no input or no output")
    if not found:
        raise ValueError(f"{key} is {path}: no row of {split} has both {names[0]} and {names[1]}")
    return found


def _texts(rows: Sequence[dict[str, Any]], names: tuple[str, str]) -> list[Demo]:
    pairs = [tuple(str(row.get(name) or "").strip() for name in names) for row in rows]
    return [Demo(row_input, output) for row_input, output in pairs if row_input and output]
