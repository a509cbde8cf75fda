"""What the run that trained a model says of it.

Given what a user names as a model (a run folder, one of its checkpoints, anything else); gives the run's folder and its
config as plain values, or None where no run is known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raylign.rollout.data.yaml_text import yaml_value


def run_of_model(model: str) -> Path | None:
    """The run folder that a model comes from."""
    path = Path(model).expanduser()
    for folder in (path, *path.absolute().parents[1:2]):  # runs/name, runs/name/checkpoints/step-000100
        if (folder / "config.yaml").is_file() and (folder / "checkpoints").is_dir():
            return folder
    return None


def config_of_run(folder: Path) -> dict[str, Any]:
    """Its resolved config. A damaged file is an error that names it."""
    path = folder / "config.yaml"
    try:
        values = yaml_value(path.read_text(encoding="utf-8"), str(path))
    except ValueError as error:
        raise ValueError(f"{path}: not a readable config: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected `key: value` lines, found {type(values).__name__}")
    return values
