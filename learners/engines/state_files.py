"""The files of a learner's state, read as data: DeepSpeed writes them as pickles, and a pickle can run code.

Given the folder, or one of the files, that `DeepSpeedEngine.save` wrote; gives the file's tensors, numbers and texts.
What names any type beyond `ALLOWED` is refused with its path: a run folder may come from somebody else.
"""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

ALLOWED = (
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
    # numbers and arrays of numpy, which objectives keep
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.ndarray",
    "numpy.dtype",
    "builtins.bytes",
)
"""Plain values; tensors, numbers, texts, lists and dicts need no leave."""


def check_state(folder: Path) -> None:
    """Raise where a file of the state asks for more than data. Reads no tensors: before a run starts."""
    from torch.serialization import get_unsafe_globals_in_checkpoint

    for file in sorted(folder.rglob("*.pt")):
        try:
            names = set(get_unsafe_globals_in_checkpoint(str(file))) - set(ALLOWED)
        except (RuntimeError, ValueError, IndexError, KeyError, TypeError, pickle.UnpicklingError) as error:
            raise refusal(file, f"it is damaged or of another format ({error})") from None
        if names:
            raise refusal(file, f"it asks for {', '.join(sorted(names))}")


def load_as_data(path: str, map_location: Any = None, mmap: bool = False) -> Any:
    """In the place of DeepSpeed's reader, which runs whatever the file asks for. `mmap`: tensors stay in the file."""
    import torch

    try:
        with torch.serialization.safe_globals([*_types(ALLOWED), *_kinds_of_numbers()]):
            return torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise refusal(path, _reason(str(error))) from None


def refusal(file: Path | str, reason: str) -> ValueError:
    """Why the file is not read, and what to do."""
    return ValueError(
        f"{file}: not loaded: {reason}. A learner's state is tensors and numbers; anything else in it could run code "
        "here. Take the checkpoint from the machine that wrote it, or start anew from its model (model.path) instead "
        "of --resume"
    )


def _types(names: Iterable[str]) -> Iterable[Any]:
    for name in names:
        module, _, kind = name.rpartition(".")
        yield getattr(importlib.import_module(module), kind)


def _kinds_of_numbers() -> list[Any]:
    """The classes of numpy's dtypes."""
    return [getattr(np.dtypes, name) for name in np.dtypes.__all__]


def _reason(message: str) -> str:
    """torch's words without its advice to trust the file."""
    told = [line.strip() for line in message.splitlines() if line.strip().startswith("WeightsUnpickler error")]
    return told[0].split(" was not an allowed")[0] if told else "it is damaged"
