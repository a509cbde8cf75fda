"""What stops a run whose numbers are not finite, before the optimizer moves.

Given the micro-batches of the step; saves them for inspection and gives the error that names file and rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raylign.learners.engines.distributed import rank

if TYPE_CHECKING:
    from raylign.learners.examples.micro_batch import MicroBatch

NUM_NAMED_ROWS = 8


class NonFiniteError(RuntimeError):
    """A loss or gradient was NaN or infinite; the optimizer has not moved and the batch lies on disk."""


def non_finite_error(what: str, step: int, batches: Sequence[MicroBatch], folder: Path) -> NonFiniteError:
    """`batches`: the suspects of this rank; none where another rank has them."""
    path = folder / f"non_finite_step{step}_rank{rank()}.npz"
    if batches:
        folder.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {
            f"{number}/{name}": array for number, batch in enumerate(batches) for name, array in batch.arrays().items()
        }
        np.savez(path, **arrays)
    where = f"saved as {path}" if batches else f"another rank saved it beside {path}"
    rows = sorted({row for batch in batches for row in batch.rows if row >= 0})
    named = f" (rows {', '.join(map(str, rows[:NUM_NAMED_ROWS]))}{', …' if rows[NUM_NAMED_ROWS:] else ''})"
    where += named if rows else ""
    return NonFiniteError(
        f"{what} not finite at optimizer step {step}, before the optimizer moved; micro-batch {where}. "
        "Look there for extreme log-probs or advantages; a lower learning rate or max_grad_norm often helps."
    )
