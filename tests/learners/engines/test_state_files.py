"""A checkpoint's state is read as data: code planted in any of its files never runs, and the message names the file."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raylign.learners.algorithms.sft import SftConfig
from raylign.learners.engines.config import LearnerConfig
from raylign.learners.engines.state_files import check_state, load_as_data
from raylign.learners.examples.example import Example
from raylign.learners.learner import Learner

pytestmark = pytest.mark.ray
Plant = Callable[[Path, object], None]


class Attack:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self._trace}",)


def beside_the_state(file: Path, attack: object) -> None:
    torch.save({**torch.load(file, weights_only=False), "more": attack}, file)


def beside_the_state_in_torchs_older_format(file: Path, attack: object) -> None:
    state = torch.load(file, weights_only=False)
    torch.save({**state, "more": attack}, file, _use_new_zipfile_serialization=False)


def instead_of_the_state(file: Path, attack: object) -> None:
    file.write_bytes(pickle.dumps(attack))


def learner_of(model: Path, folder: Path, zero_stage: int) -> Learner:
    config = LearnerConfig(learning_rate=1e-2, threads_per_rank=1, zero_stage=zero_stage)
    return Learner(config, str(model), SftConfig().build_objective(0), 1.0, 10, 0, folder / "debug", 0)


@pytest.fixture(scope="module", params=[1, 3], ids=lambda stage: f"zero_stage_{stage}")
def saved(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[int, Path]:
    """The state after a step."""
    folder = tmp_path_factory.mktemp("saved")
    learner = learner_of(tiny_model, folder, request.param)
    ids = np.arange(5, dtype=np.int32)
    learner.update([Example(ids, ids, loss_mask=np.ones(5, np.float32))])
    learner.save_state(folder / "state")
    return request.param, folder / "state"


def test_what_a_learner_saved_is_data_and_is_taken_up(
    saved: tuple[int, Path], tiny_model: Path, tmp_path: Path
) -> None:
    stage, folder = saved
    check_state(folder)
    again = learner_of(tiny_model, tmp_path, stage)
    again.load_state(folder)
    assert again.num_batches == 1


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "int32", "bool"])
def test_arrays_and_numbers_of_numpy_are_data(tmp_path: Path, dtype: str) -> None:
    kept = {"logits": np.arange(3).astype(dtype), "none": np.zeros(0, dtype), "one": np.arange(3).astype(dtype)[1]}
    (tmp_path / "state").mkdir()
    torch.save({"algorithm": kept}, tmp_path / "state" / "a.pt")
    check_state(tmp_path / "state")
    found = load_as_data(str(tmp_path / "state" / "a.pt"))["algorithm"]
    assert {name: (value.dtype, value.tolist()) for name, value in found.items()} == {
        name: (value.dtype, value.tolist()) for name, value in kept.items()
    }


def test_an_array_of_objects_brings_no_code(tmp_path: Path) -> None:
    torch.save({"a": np.array([Attack(tmp_path / "pwned")], object)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt: not loaded: "):
        check_state(tmp_path)
    with pytest.raises(ValueError, match=r"a\.pt: not loaded: "):
        load_as_data(str(tmp_path / "a.pt"))
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "plant", [beside_the_state, beside_the_state_in_torchs_older_format, instead_of_the_state], ids=lambda p: p.__name__
)
def test_code_in_any_file_of_a_checkpoint_never_runs(
    saved: tuple[int, Path], plant: Plant, tiny_model: Path, tmp_path: Path
) -> None:
    stage, original = saved
    names = sorted(str(file.relative_to(original)) for file in original.rglob("*.pt"))
    assert len(names) == 2
    for name in names:
        folder = tmp_path / name.replace("/", "-")
        shutil.copytree(original, folder)
        plant(folder / name, Attack(tmp_path / "pwned"))
        with pytest.raises(ValueError, match=f"{name}: not loaded: ") as before_the_start:
            check_state(folder)
        if plant is beside_the_state:
            assert "it asks for posix.system." in str(before_the_start.value)
        with pytest.raises(ValueError, match=f"{name}: not loaded: "):
            load_as_data(str(folder / name))
        with pytest.raises(ValueError, match=f"{name}: not loaded: "):
            learner_of(tiny_model, tmp_path, stage).load_state(folder)
    assert not (tmp_path / "pwned").exists()
