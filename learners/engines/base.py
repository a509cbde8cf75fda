"""What a learner backend is: the verbs that `Learner` and the export of weights use.

Given a model and a `LearnerConfig` (`build.py` chooses the backend); gives log-probs of micro-batches, gradients of a
loss, optimizer steps, whole tensors and resumable state. All ranks call every verb, with equally many micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from raylign.learners.meters.metric import PassMetrics, StepMetrics

if TYPE_CHECKING:
    import torch

    from raylign.learners.examples.micro_batch import MicroBatch
    from raylign.learners.model.policy_model import PolicyModel
    from raylign.learners.model.scorer import ScorerModel

    LearnerModel = PolicyModel | ScorerModel
    LossFunction = Callable[[torch.Tensor, torch.Tensor, MicroBatch], tuple[torch.Tensor, PassMetrics]]
    """(logps (N,), entropies (N,), batch) → this micro-batch's share of the loss, and metrics."""


class LearnerEngine(Protocol):
    """One rank's model with its optimizer, sharded or not."""

    policy: LearnerModel
    device: torch.device
    trainable: list[torch.nn.Parameter]
    """What the optimizer moves, as this rank holds it."""
    num_steps: int
    """Optimizer steps so far."""

    def logprobs(self, micro_batches: Sequence[MicroBatch]) -> list[torch.Tensor]:
        """(N,) log-probs of each micro-batch's completion tokens, on the CPU; no gradient, no dropout."""

    def forward_backward(self, micro_batches: Sequence[MicroBatch], loss: LossFunction) -> StepMetrics:
        """Add the gradient of Σ loss over micro-batches and ranks to those held; a `NonFiniteError` where a share of
        it is not finite. Metrics of all micro-batches and ranks."""

    def evaluate(self, micro_batches: Sequence[MicroBatch], loss: LossFunction) -> StepMetrics:
        """The same metrics without any gradient, and without dropout."""

    def step(self) -> StepMetrics:
        """One optimizer step on the gradients held, clipped; a `NonFiniteError` before it where they are not finite.
        Gives the gradient norm before clipping and the learning rate."""

    def full_tensors(self, parameters: Sequence[torch.nn.Parameter]) -> list[torch.Tensor]:
        """Whole, detached; may alias the live parameters."""

    def full_shape(self, parameter: torch.nn.Parameter) -> tuple[int, ...]:
        """Of the whole tensor, however it is sharded; needs no collective."""

    def offload(self) -> None:
        """Give the GPU's memory to the engine that shares it (colocated mode): parameters, gradients, masters and
        moments are on the host afterwards. A ValueError where they cannot leave."""

    def reload(self) -> None:
        """Take it back."""

    def save(self, folder: Path, extra: Mapping[str, Any]) -> None:
        """Weights, optimizer, step and random states, and `extra`; each rank its part (see `universal_state.py`)."""

    def load(self, folder: Path) -> dict[str, Any]:
        """Take up what `save` wrote; gives its state, `extra` included."""
