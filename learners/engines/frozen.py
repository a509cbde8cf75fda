"""Tensors that no optimizer moves: a model that is only run, and the frozen parts of the one that is trained.

Given a model as the backend laid it out; gives its log-probs, and moves it to the host while an engine has the GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from raylign.learners.examples.micro_batch import MicroBatch


@dataclass(frozen=True)
class FrozenModel:
    """A model that is only run."""

    logps_of: Callable[[MicroBatch], tuple[torch.Tensor, torch.Tensor]]
    """(logps (N,), entropies (N,)) of a micro-batch on `device`."""
    tensors: Sequence[torch.Tensor] | None
    """All that it holds there; None where each rank holds a part."""
    device: torch.device

    def offload(self) -> None:
        """Its memory on the GPU is free afterwards."""
        if self.tensors is None:
            raise ValueError(
                "a frozen model (learner.reference_path or the start model) is sharded over several ranks and cannot "
                "leave the GPU: give engine and learner a GPU each, or set learner.zero_stage to 2"
            )
        move(self.tensors, "cpu")

    def reload(self) -> None:
        """Take the memory back."""
        assert self.tensors is not None, "what cannot leave was never away"
        move(self.tensors, self.device)


def move(tensors: Iterable[torch.Tensor], device: torch.device | str) -> None:
    """In place: whoever holds one of them sees it there."""
    for tensor in tensors:
        tensor.data = tensor.data.to(device)
