"""A training run that works: real data files and a real tiny model, for what is checked before a start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raylign.jobs.init_model import InitModelConfig, init_model
from raylign.rollout.data.config import DataConfig


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "sums.jsonl"
    file.write_text(
        "".join(
            json.dumps({"question": f"{a} + {b} =", "answer": str(a + b)}) + "\n" for a in range(10) for b in range(10)
        )
    )
    return file


@pytest.fixture(scope="module")
def model(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    init_model(
        InitModelConfig(
            output=folder, data=DataConfig(source=str(rows)), num_layers=2, width=64, num_heads=2, num_kv_heads=1
        )
    )
    return folder


@pytest.fixture
def values(rows: Path, model: Path, tmp_path: Path) -> dict[str, Any]:
    """A training run that works."""
    return {
        "folder": tmp_path / "run",
        "model": {"path": str(model)},
        "data": {"source": str(rows), "rows": "0%:80%"},
        "sampling": {"max_tokens": 8},
        "rollout": {"engine": {"max_model_len": 64}},
        "rewards": [{"name": "numeric"}],
        "cluster": {"address": "local"},
    }
