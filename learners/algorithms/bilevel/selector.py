"""The selector: one logit for each row of a data set, learned so that rows which fit the trusted ones gain weight.

Given the losses of a batch of rows; gives every row's weight after an Adam step on S(ω) = (1/B) Σ w_i(ω)·ℓ_i. Equal on
every rank: each holds the whole selector and steps it on the same numbers. N rows, B entries of a batch.

    softmax   ω starts at 0.1,     w = N·softmax(ω):   the mean weight is 1, whatever is learned
    sigmoid   ω starts at −1e-4,   w = 2·sigmoid(ω):   each weight is between 0 and 2

The softmax gradient is dense: rows outside the batch gain what those in it lose. A row's logit therefore says as much
about how often it was seen as about its loss, unless all are seen equally often.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, Field

from raylign.learners.engines.schedule import learning_rate
from raylign.rollout.sample import FloatArray

if TYPE_CHECKING:
    import torch

FIRST_LOGIT = {"softmax": 0.1, "sigmoid": -1e-4}


class SelectorConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """How the weights of rows are learned."""

    activation: Literal["softmax", "sigmoid"] = "softmax"
    """softmax: weights of all rows add up to their number; sigmoid: each row's between 0 and 2."""
    learning_rate: float = Field(1e-4, ge=0)
    """Of the logits; 0 keeps all weights as they begin: uniform mixing."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """After warm-up: hold, or decay to `final_learning_rate_share` at the last step."""
    final_learning_rate_share: float = Field(0.1, ge=0, le=1)
    """Last learning rate of a decaying schedule, as a share of the peak."""
    warmup_steps: int = Field(0, ge=0)
    """Steps of linear warm-up."""
    adam_betas: tuple[float, float] = (0.9, 0.95)
    """Adam's averaging constants."""
    adam_epsilon: float = Field(1e-8, gt=0)
    """Adam's denominator floor. When small, a row that comes once in many steps moves by the same amount whatever its
    loss; above the size of a gradient (loss / batch) it moves by its loss, which short runs need."""
    step_every: Literal["update", "micro"] = "update"
    """Step once for each optimizer step of the model; micro: once for every `micro_rows` rows of it (BIPOST)."""
    micro_rows: int = Field(1, ge=1)
    """Rows of one selector step with `step_every: micro`."""


class Selector:
    """Logits of N rows, their Adam moments and schedule."""

    def __init__(self, config: SelectorConfig, num_rows: int, num_steps: int) -> None:
        """`num_steps`: of the whole run, for a decaying schedule."""
        import torch

        self.config = config
        self.num_rows = num_rows
        self._num_steps = num_steps
        self.num_steps_done = 0
        self.logits = torch.full((num_rows,), FIRST_LOGIT[config.activation], dtype=torch.float32, requires_grad=True)
        self._adam = torch.optim.Adam([self.logits], lr=1.0, betas=config.adam_betas, eps=config.adam_epsilon)

    def weights(self) -> FloatArray:
        """(N,) current weights."""
        return row_weights(self.logits.detach(), self.config.activation).numpy()

    def step(self, rows: Sequence[int], losses: Sequence[float]) -> None:
        """One Adam step on (1/B) Σ w_i·ℓ_i; a row that comes twice counts twice."""
        import torch

        gradient = selector_gradient(self.logits.detach(), self.config.activation, rows, losses)
        rate = learning_rate(self.config, self.num_steps_done, self._num_steps)
        for group in self._adam.param_groups:
            group["lr"] = rate
        self.logits.grad = gradient.to(torch.float32)
        self._adam.step()
        self.num_steps_done += 1

    def state(self) -> dict[str, Any]:
        """Logits, moments and step count as arrays."""
        moments = self._adam.state.get(self.logits, {})
        zeros = np.zeros(self.num_rows, np.float32)
        return {
            "logits": self.logits.detach().numpy().copy(),
            "mean": moments["exp_avg"].numpy().copy() if moments else zeros,
            "square": moments["exp_avg_sq"].numpy().copy() if moments else zeros,
            "num_steps": self.num_steps_done,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """What `state` gave, for as many rows."""
        import torch

        with torch.no_grad():
            self.logits.copy_(torch.from_numpy(state["logits"]))
        self.num_steps_done = int(state["num_steps"])
        if self.num_steps_done:
            self._adam.state[self.logits] = {
                "step": torch.tensor(float(self.num_steps_done)),
                "exp_avg": torch.from_numpy(state["mean"].copy()),
                "exp_avg_sq": torch.from_numpy(state["square"].copy()),
            }


def row_weights(logits: torch.Tensor, activation: str) -> torch.Tensor:
    """(N,) N·softmax(ω), or 2·sigmoid(ω)."""
    return len(logits) * logits.softmax(0) if activation == "softmax" else 2 * logits.sigmoid()


def selector_gradient(
    logits: torch.Tensor, activation: str, rows: Sequence[int], losses: Sequence[float]
) -> torch.Tensor:
    """(N,) gradient of (1/B) Σ w_i(ω)·ℓ_i; with softmax (N/B)·s_j·(1[j in batch]·ℓ_j − Σ_i s_i·ℓ_i), dense."""
    import torch

    with torch.enable_grad():
        leaf = logits.detach().clone().requires_grad_()
        weights_B = row_weights(leaf, activation)[torch.as_tensor(list(rows), dtype=torch.long)]
        losses_B = torch.tensor(list(losses), dtype=leaf.dtype)
        (weights_B * losses_B).mean().backward()
    assert leaf.grad is not None, "backward fills it"
    return leaf.grad


# ---- three ways to use weights in the model's loss: as factors (BDR), as a gate (online), as a filter (SEAL) --------
