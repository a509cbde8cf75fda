"""Loss, gradients and steps do not depend on ranks, split, packing or ZeRO stage. Real DeepSpeed processes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from raylign.learners.engines.universal_state import for_any_ranks, num_ranks_of
from tests.learners import rank_cases
from tests.learners.algorithms.level_cases import LEVEL_ALGORITHMS
from tests.learners.rank_cases import (
    ALGORITHMS,
    PAIR_ALGORITHMS,
    RESIZED,
    STAGES,
    UPDATES,
    resizing,
    splits,
)
from tests.patience import wait_for_end

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]


def run_ranks(model: Path, out: Path, parts: str, world_size: int, module: str = "tests.learners.rank_cases") -> None:
    """Run rank_cases.py, or another module, on `world_size` processes and wait for all."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = []
    try:
        for rank in range(world_size):
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
            command = [sys.executable, "-m", module, str(model), str(out), *([parts] if parts else [])]
            with (out / f"rank{rank}.log").open("w") as log:
                processes.append(subprocess.Popen(command, cwd=ROOT, env={**common, **ranks}, stdout=log, stderr=log))
        for rank, process in enumerate(processes):
            code = wait_for_end(process, others=[other.pid for other in processes])
            assert code == 0, f"rank {rank}:\n" + (out / f"rank{rank}.log").read_text()[-3000:]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()


EVERY_SPLIT = "gradients,updates,steps,levels"
RESIZED_HERE = ("zero2", "zero3_rmsprop")
"""The others by a slow test."""


@pytest.fixture(scope="module")
def one_rank(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In this process."""
    out = tmp_path_factory.mktemp("one_rank")
    rank_cases.run(str(tiny_model), out, f"{EVERY_SPLIT},written:{'+'.join(RESIZED_HERE)}")
    return out


@pytest.fixture(scope="module")
def two_ranks(tiny_model: Path, one_rank: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out, names = tmp_path_factory.mktemp("two_ranks"), "+".join(RESIZED_HERE)
    make_whole(one_rank, out, RESIZED_HERE)
    run_ranks(tiny_model, out, f"{EVERY_SPLIT},written:{names},resized:{names}", 2)
    return out


def make_whole(source: Path, target: Path, names: Iterable[str]) -> None:
    """What the ranks of `source` wrote, for those that write to `target`; at stage 0 it is so already."""
    for name in names:
        state = source / f"resized-{name}"
        if num_ranks_of(state) is None:
            shutil.copytree(state, target / f"whole-{name}")
        else:
            for_any_ranks(state, target / f"whole-{name}")


def back_to_one(model: Path, two_ranks: Path, names: Iterable[str], out: Path) -> Path:
    """Two ranks' states, taken up in this process."""
    make_whole(two_ranks, out, names)
    rank_cases.run(str(model), out, f"resized:{'+'.join(names)}")
    return out


def load(folder: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(folder / f"{name}.npz") as file:
        return {key.replace("|", "/"): file[key] for key in file.files}


def relative_difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, *PAIR_ALGORITHMS])
def test_loss_and_gradient_do_not_depend_on_the_split(algorithm: str, one_rank: Path, two_ranks: Path) -> None:
    whole = load(one_rank, f"{algorithm}-padded-10000")
    worst = 0.0
    for world_size, folder in ((1, one_rank), (2, two_ranks)):
        for layout, budget in splits(world_size):
            other = load(folder, f"{algorithm}-{layout}-{budget}")
            assert other.keys() == whole.keys()
            for key, value in other.items():
                worst = max(
                    worst, relative_difference(value, whole[key]) if np.any(whole[key]) else float(np.any(value))
                )
    print(f"{algorithm}: worst relative difference {worst:.1e}")
    assert np.linalg.norm(whole["gradient"]) > 1e-3
    assert worst <= 1e-5


@pytest.mark.parametrize("algorithm", LEVEL_ALGORITHMS)
def test_both_levels_and_the_selector_do_not_depend_on_ranks_and_split(
    algorithm: str, one_rank: Path, two_ranks: Path
) -> None:
    """Loss and gradient of the model; logits of the selector and weights of the model after two steps of both."""
    whole = load(one_rank, f"levels-{algorithm}-padded-10000")
    worst = 0.0
    for world_size, folder in ((1, one_rank), (2, two_ranks)):
        for layout, budget in splits(world_size):
            other = load(folder, f"levels-{algorithm}-{layout}-{budget}")
            for key in ("loss", "gradient", "logits"):
                worst = max(worst, relative_difference(other[key], whole[key]))
            for key, value in other.items():
                np.testing.assert_allclose(value, whole[key], rtol=2e-4, atol=2e-5, err_msg=key)
    print(f"{algorithm}: worst relative difference {worst:.1e}")
    assert np.linalg.norm(whole["gradient"]) > 1e-3
    assert worst <= 1e-5


@pytest.mark.parametrize("algorithm", UPDATES)
def test_updates_do_not_depend_on_ranks_and_split(algorithm: str, one_rank: Path, two_ranks: Path) -> None:
    expected = load(one_rank, f"update-{algorithm}-padded-10000")
    assert expected["staleness/share_1"] + expected["staleness/share_2"] == pytest.approx(1)
    for world_size, folder in ((1, one_rank), (2, two_ranks)):
        for layout, budget in splits(world_size):
            for key, value in load(folder, f"update-{algorithm}-{layout}-{budget}").items():
                np.testing.assert_allclose(value, expected[key], rtol=2e-4, atol=2e-5, err_msg=key)


@pytest.mark.parametrize("stage", ["zero0", "zero1", "zero2", "zero3", "zero3_checkpointing"])
def test_every_zero_stage_takes_the_same_steps(stage: str, one_rank: Path, two_ranks: Path) -> None:
    expected = load(one_rank, "zero0")
    for folder in (one_rank, two_ranks):
        for key, value in load(folder, stage).items():
            if not key.endswith(("tokens_per_s", "padding_share")):
                np.testing.assert_allclose(value, expected[key], rtol=2e-4, atol=2e-5, err_msg=key)


def test_a_resized_group_goes_on_as_the_one_that_wrote_its_state(
    tiny_model: Path, one_rank: Path, two_ranks: Path, tmp_path: Path
) -> None:
    """1 → 2 and 2 → 1 ranks."""
    again_one = back_to_one(tiny_model, two_ranks, RESIZED_HERE, tmp_path)
    for name in RESIZED_HERE:
        goes_on_alike(name, one_rank, two_ranks)
        goes_on_alike(name, two_ranks, again_one)


@pytest.mark.slow
def test_a_resized_group_of_every_kind_goes_on_as_the_one_that_wrote_its_state(
    tiny_model: Path, tmp_path: Path
) -> None:
    one, two, again_one = (tmp_path / name for name in ("one", "two", "again_one"))
    for folder in (one, two, again_one):
        folder.mkdir()
    names = "+".join(RESIZED)
    rank_cases.run(str(tiny_model), one, f"written:{names}")
    make_whole(one, two, RESIZED)
    run_ranks(tiny_model, two, f"written:{names},resized:{names}", 2)
    back_to_one(tiny_model, two, RESIZED, again_one)
    for name in RESIZED:
        goes_on_alike(name, one, two)
        goes_on_alike(name, two, again_one)


def goes_on_alike(name: str, wrote: Path, took_up: Path) -> None:
    """The very weights, and the losses of the next three steps (bfloat16: to its rounding, since ranks share the
    sequences out otherwise)."""
    expected, found = load(wrote, f"resized-{name}-losses"), load(took_up, f"whole-{name}-losses")
    losses = expected.pop("losses"), found.pop("losses")
    assert all(np.array_equal(found[key], value) for key, value in expected.items()) and len(found) == len(expected)
    print(f"{name}: {np.abs(losses[1] - losses[0]).max():.1e}")
    np.testing.assert_allclose(losses[1], losses[0], rtol=0, atol=5e-3 if "bf16" in name else 1e-5)
    assert losses[0][2] < losses[0][1] < losses[0][0]


def test_a_state_of_other_ranks_is_not_taken_up_in_silence(tiny_model: Path, two_ranks: Path) -> None:
    learner = resizing("zero2", str(tiny_model), two_ranks)
    with pytest.raises(ValueError, match="was written by 2 ranks, and these are 1"):
        learner.load_state(two_ranks / "resized-zero2")


def test_a_parameter_whose_name_leads_out_of_the_folder_is_refused(two_ranks: Path, tmp_path: Path) -> None:
    state = shutil.copytree(two_ranks / "resized-zero2", tmp_path / "state")
    for file in (state / "state").glob("*_optim_states.pt"):
        content = torch.load(file, weights_only=False)
        (mapping,) = content["optimizer_state_dict"]["param_slice_mappings"]
        content["optimizer_state_dict"]["param_slice_mappings"] = [{f"../{name}": at for name, at in mapping.items()}]
        torch.save(content, file)
    with pytest.raises(ValueError, match=r"not loaded: a parameter is named '\.\./"):
        for_any_ranks(state, tmp_path / "whole")


def test_lora_takes_the_same_steps_sharded(one_rank: Path, two_ranks: Path) -> None:
    expected = load(one_rank, "zero0_lora")
    for folder in (one_rank, two_ranks):
        for key, value in load(folder, "zero3_lora").items():
            if not key.endswith(("tokens_per_s", "padding_share")):
                np.testing.assert_allclose(value, expected[key], rtol=2e-4, atol=2e-5, err_msg=key)


@pytest.mark.parametrize("stage", ["zero2_bf16", "zero3_bf16"])
def test_bfloat16_stays_near_float32(stage: str, one_rank: Path, two_ranks: Path) -> None:
    expected = load(one_rank, "zero0")
    for folder in (one_rank, two_ranks):
        found = load(folder, stage)
        assert np.abs(found["logps"] - expected["logps"]).mean() < 0.05
        assert found["0/learner/grad_norm"] == pytest.approx(expected["0/learner/grad_norm"], rel=0.05)


@pytest.mark.parametrize("stage", STAGES)
def test_saved_models_of_two_ranks_load_in_transformers(stage: str, two_ranks: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(two_ranks / f"{stage}-model", dtype=torch.float32)
    expected = load(two_ranks, stage)
    for name, tensor in model.named_parameters():
        assert np.array_equal(tensor.detach().numpy(), expected[name]), name
