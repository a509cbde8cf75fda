"""A learner's state for another number of ranks: DeepSpeed's universal checkpoint, made from what the ranks wrote.

Given the folder that `DeepSpeedEngine.save` wrote, with one partition of masters and moments for each rank; gives a
folder that any number of ranks load (`DeepSpeedEngine.load`), each taking its own part of every parameter:

    state/zero/<parameter>/{fp32,step,<moments>}.pt   whole tensors
    state/zero/optimizer_state.pt                     what is the same on all ranks
    state/*_model_states.pt                           of rank 0, as they were

DeepSpeed's own converter (`ds_to_universal`) is not used: it runs what the files' pickles ask for, refuses a state
without Megatron's `universal_checkpoint_info`, and knows no moments but Adam's. At stage 0 nothing is partitioned, and
the state is loaded as it is.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raylign.learners.engines.state_files import load_as_data, refusal

TAG = "state"
MASTERS = "fp32"
ADAM_MOMENTS = ("exp_avg", "exp_avg_sq")
AVERAGE_OF_RMSPROP = "square_avg"
"""DeepSpeed's reader asks for Adam's moments at stage 3, whatever the optimizer: there it goes by their names."""


def num_ranks_of(folder: Path) -> int | None:
    """Ranks that wrote the state; None where any number reads it."""
    if (folder / TAG / "zero").is_dir():
        return None
    return len(_optimizer_files(folder)) or None


def for_any_ranks(folder: Path, target: Path) -> Path:
    """Write the same state to `target`, whole; gives it. Tensors are mapped, so one parameter is in memory at once."""
    files = _optimizer_files(folder)
    states = [load_as_data(str(file), map_location="cpu", mmap=True)["optimizer_state_dict"] for file in files]
    model_file = next(iter(sorted((folder / TAG).glob("*_model_states.pt"))))
    zero = target / TAG / "zero"
    zero.mkdir(parents=True)
    if "fp32_flat_groups" in states[0]:
        shapes = load_as_data(str(model_file), map_location="cpu", mmap=True)["param_shapes"]
        pieces, common = _pieces_of_sharded(states, shapes), _common_of_sharded(states[0])
    else:
        pieces, common = _pieces_of_partitioned(states, files), _common_of_partitioned(states[0])
    for name, tensors in pieces:
        if Path(name).name != name:  # of a folder that somebody made so
            raise refusal(model_file, f"a parameter is named {name!r}")
        _save_parameter(zero / name, tensors)
    _save(zero / "optimizer_state.pt", common)
    _link(model_file, target / TAG / model_file.name)
    return target


def _optimizer_files(folder: Path) -> list[Path]:
    """One for each rank, in their order; none at stage 0."""
    found = (folder / TAG).glob("*zero_pp_rank_*_optim_states.pt")
    return sorted(found, key=lambda file: int(file.name.partition("pp_rank_")[2].partition("_")[0]))


def _pieces_of_partitioned(states: list[dict[str, Any]], files: list[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Stages 1 and 2: all parameters of a group lie in one flat tensor, cut anywhere; each rank says what it has."""
    import torch

    for group, all_names in enumerate(_names_of_group(states, group) for group in range(_num_groups(states[0]))):
        flat_R = [_flat_tensors(state, group) for state in states]
        for name in all_names:
            parts: dict[str, list[Any]] = {key: [] for key in flat_R[0]}
            for state, flat, file in zip(states, flat_R, files, strict=True):
                place = state["param_slice_mappings"][group].get(name)
                for key, tensor in flat.items() if place is not None else ():
                    if tensor.dim() and place.start + place.numel > len(tensor):
                        raise refusal(file, f"{key} of {name} goes beyond its end")
                    parts[key].append(tensor.narrow(0, place.start, place.numel) if tensor.dim() else tensor)
            yield name, {key: torch.cat(found) if found[0].dim() else found[0] for key, found in parts.items()}


def _num_groups(state: dict[str, Any]) -> int:
    return len(state["single_partition_of_fp32_groups"])


def _names_of_group(states: list[dict[str, Any]], group: int) -> list[str]:
    return list(dict.fromkeys(name for state in states for name in state["param_slice_mappings"][group]))


def _flat_tensors(state: dict[str, Any], group: int) -> dict[str, Any]:
    return {MASTERS: state["single_partition_of_fp32_groups"][group], **state["base_optimizer_state"]["state"][group]}


def _common_of_partitioned(state: dict[str, Any]) -> dict[str, Any]:
    of_ranks = ("base_optimizer_state", "single_partition_of_fp32_groups", "param_slice_mappings")
    common = {key: value for key, value in state.items() if key not in of_ranks}
    return common | {"param_groups": state["base_optimizer_state"]["param_groups"]}


def _pieces_of_sharded(states: list[dict[str, Any]], shapes: list[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Stage 3: each parameter is cut into as many equal parts as there are ranks, the last of them filled up."""
    import torch

    for group, shape_by_name in enumerate(shapes):
        flat_R = [
            {MASTERS: state["fp32_flat_groups"][group], **_as_adams(state["optimizer_state_dict"]["state"][group])}
            for state in states
        ]
        start = 0
        for name, shape in shape_by_name.items():
            size = math.ceil(shape.numel() / len(states))
            yield (
                name,
                {
                    key: torch.cat([flat[key].narrow(0, start, size) for flat in flat_R])[: shape.numel()]
                    for key in flat_R[0]
                    if flat_R[0][key].dim()
                },
            )
            start += size


def _as_adams(moments: dict[str, Any]) -> dict[str, Any]:
    """Under the names that DeepSpeed's reader asks for; `DeepSpeedEngine.load` gives the name back."""
    if AVERAGE_OF_RMSPROP not in moments:
        return moments
    return {"step": moments["step"], **dict.fromkeys(ADAM_MOMENTS, moments[AVERAGE_OF_RMSPROP])}


def _common_of_sharded(state: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in state.items() if key != "fp32_flat_groups"}
    optimizer = state["optimizer_state_dict"]
    steps = {group: {"step": moments["step"]} for group, moments in optimizer["state"].items()}
    return kept | {"optimizer_state_dict": {**optimizer, "state": steps}}


def _save_parameter(folder: Path, tensors: dict[str, Any]) -> None:
    folder.mkdir()
    for key, tensor in tensors.items():
        _save(folder / f"{key}.pt", {"param": tensor.clone()} if tensor.dim() else tensor.clone())


def _save(file: Path, value: Any) -> None:
    import torch

    torch.save(value, file)


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError:  # a disk that has no hard links
        shutil.copyfile(file, target)
