"""What an algorithm is: how groups become examples, and the loss on them.

Given groups from rollouts (or demonstrations), gives `Example`s and a loss over a micro-batch of them.
The loop, the rollouts and the learner do not know the names of algorithms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from raylign.rollout.sample import FloatArray, Group, IntArray

if TYPE_CHECKING:
    import torch

    from raylign.learners.batch import MicroBatch


@dataclass
class Example:
    """One sequence to learn from. T = number of completion tokens."""

    prompt_ids: IntArray
    completion_ids: IntArray
    loss_mask: FloatArray
    """(T,) 1 where the token counts in the loss."""
    advantages: FloatArray | None = None
    """(T,) filled by RL algorithms."""
    rollout_logps: FloatArray | None = None
    """(T,) log π_roll as the engine reported; None for demonstrations."""
    old_logps: FloatArray | None = None
    """(T,) log π_old of the learner at the start of the update; filled by the learner when asked for."""
    reference_logps: FloatArray | None = None
    """(T,) log π_ref; filled by the learner when `needs_reference`."""


@dataclass(frozen=True)
class Normalizers:
    """Denominators over the global batch (one optimizer step, all ranks and micro-batches): why losses do not
    depend on the split.
    """

    num_tokens: float
    """Σ loss_mask over all examples."""
    num_sequences: int


class Algorithm(Protocol):
    """One training method."""

    needs_rollouts: bool
    """False for methods that learn from demonstrations only (sft)."""
    needs_reference: bool
    """True when the loss uses log π_ref."""
    num_updates: int
    """Optimizer steps on one batch of examples (mini-batches); old_logps are recomputed before the first when > 1."""

    def examples(self, groups: Sequence[Group]) -> list[Example]:
        """Examples to train on."""

    def loss(
        self, logps: torch.Tensor, entropies: torch.Tensor, batch: MicroBatch, normalizers: Normalizers
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """This micro-batch's share of the global loss (shares of all micro-batches add up to the loss), and
        summed metrics.

        `logps`, `entropies`: (N,) over the N completion tokens of the micro-batch, in the order of `batch`'s
        flat fields. Metrics are sums over tokens whose key ends in `/sum`, or maxima whose key ends in
        `/max`; the learner adds (or takes the
        maximum) over micro-batches and ranks, and divides sums by `normalizers.num_tokens`.
        """
