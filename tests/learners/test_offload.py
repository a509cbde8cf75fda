"""What a learner holds on a GPU that it leaves to an engine by turns: nothing. Real DeepSpeed; the device is a double.

On a machine without GPU every tensor is on the host, so a move is made to be one: memory that a tensor had is "the
GPU's", and `to` gives it other memory. What must be free afterwards is looked for among all tensors of the process.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from raylign.learners.algorithms.policy_gradient.grpo import GrpoConfig
from raylign.learners.engines.config import LearnerConfig
from raylign.learners.learner import Learner
from tests.learners.test_learner import examples, snapshot

pytestmark = pytest.mark.ray
SMALL_BYTES = 64
"""Scalars (counters, norms) may stay."""


@pytest.fixture
def nothing_before() -> Iterator[None]:
    """Tensors made before are not looked at (nor collected, again and again)."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def memory_of_tensors() -> dict[StorageWeakRef, int]:
    """Bytes of all tensors of this test, by memory. Tensors that share memory have it once."""
    found = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor) and thing.device.type == "cpu":
            storage = thing.untyped_storage()
            if storage.nbytes() > SMALL_BYTES:
                found[StorageWeakRef(storage)] = storage.nbytes()
    return found


@pytest.fixture
def moves_are_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """`tensor.to(device)` gives other memory, as it does between GPU and host."""
    to = torch.Tensor.to

    def moved(tensor: torch.Tensor, *to_what: Any, **named: Any) -> torch.Tensor:
        result: torch.Tensor = to(tensor, *to_what, **named)
        is_move = bool(to_what) and isinstance(to_what[0], str | torch.device)
        return result.clone() if is_move and result.data_ptr() == tensor.data_ptr() else result

    monkeypatch.setattr(torch.Tensor, "to", moved)


def learner_of(model: Path, folder: Path, **settings: Any) -> Learner:
    config = LearnerConfig.model_validate({"learning_rate": 1e-2, "threads_per_rank": 1, "zero_stage": 2, **settings})
    objective = GrpoConfig(kl_coef=1e-3).build_objective(0)
    return Learner(config, str(model), objective, 1.0, 10, 0, folder)


@pytest.mark.parametrize(
    "settings",
    [{"dtype": "float32"}, {"dtype": "bfloat16", "optimizer": "rmsprop"}, {"lora": {"rank": 4}}],
    ids=["float32", "bfloat16", "lora"],
)
def test_nothing_stays_on_the_gpu_and_training_goes_on_as_if_it_had(
    settings: dict[str, Any], tiny_model: Path, tmp_path: Path, nothing_before: None, moves_are_copies: None
) -> None:
    """Weights, the model under adapters, gradients, masters, moments, buffers and the reference."""
    learner = learner_of(tiny_model, tmp_path, **settings)
    learner.update(examples())
    held = memory_of_tensors()
    num_bytes = sum(parameter.numel() * parameter.itemsize for parameter in learner.engine.policy.parameters())
    assert sum(held.values()) > num_bytes

    learner.offload()
    gc.collect()
    assert [size for memory, size in held.items() if not memory.expired()] == []

    learner.reload()
    assert learner.update(examples())["learner/kl"] > 0
    learner.offload()
    weights = snapshot(learner)  # what is exported and saved is the same from the host
    learner.reload()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in learner.weights())

    stays = learner_of(tiny_model, tmp_path, **settings)
    for _ in range(2):
        stays.update(examples())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in stays.weights())


@pytest.mark.parametrize(("dtype", "stage"), [("float32", 0), ("float32", 3), ("bfloat16", 0)])
def test_what_cannot_leave_the_gpu_is_refused(dtype: str, stage: int, tiny_model: Path, tmp_path: Path) -> None:
    learner = learner_of(tiny_model, tmp_path, dtype=dtype, zero_stage=stage)
    with pytest.raises(ValueError, match=r"set learner\.zero_stage to 2"):
        learner.offload()
