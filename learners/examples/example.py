"""What a learner is given: sequences with a mask, and the denominators of their loss.

Given by a curriculum; taken by batches, objectives and the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raylign.rollout.sample import FloatArray, IntArray


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
    proximal_share: FloatArray | None = None
    """(T,) α of the loglinear proximal policy; filled by the learner when `proximal` is loglinear."""
    token_versions: IntArray | None = None
    """(T,) weight version that each token was sampled from; None for demonstrations."""
    weight: float = 1.0
    """Above 0; multiplies the policy loss of the sequence (importance weight of prioritised sampling)."""
    group: int = -1
    """Ordinal of its prompt or row: examples of one group share it."""
    unit: int = -1
    """Examples of one unit (from 0) lie in one micro-batch, for losses that compare them: a preference pair."""
    facts: Mapping[str, float] = field(default_factory=dict)
    """Numbers that the algorithm's own loss reads (side of a pair, coefficient); the same keys in a whole batch."""

    def __post_init__(self) -> None:
        assert self.weight > 0, f"weight is {self.weight}: a sequence that counts nothing has a zero loss_mask"

    def __getstate__(self) -> dict[str, Any]:
        """To the ranks: an array of one value goes as that value and its length."""
        return {name: _Constant.folded(value) for name, value in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({name: _Constant.unfolded(value) for name, value in state.items()})


def constant(value: float, num_tokens: int) -> FloatArray:
    """(T,) one value for every token, which takes no memory; not to be written to."""
    return np.broadcast_to(np.float32(value), num_tokens)


@dataclass(frozen=True)
class _Constant:
    """An array of one value, on its way."""

    value: np.generic
    length: int

    @staticmethod
    def folded(value: Any) -> Any:
        if isinstance(value, np.ndarray) and value.strides == (0,) and len(value):
            return _Constant(value[0], len(value))
        return value

    @staticmethod
    def unfolded(value: Any) -> Any:
        return np.broadcast_to(value.value, value.length) if isinstance(value, _Constant) else value


@dataclass(frozen=True)
class Normalizers:
    """Denominators over the global batch (one optimizer step, all ranks and micro-batches): why losses do not
    depend on the split.
    """

    num_tokens: float
    """Σ loss_mask over all examples."""
    num_sequences: int
