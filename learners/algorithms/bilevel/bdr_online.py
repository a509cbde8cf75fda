"""BDR_Online: BDR whose poorest rows keep their questions and get the policy's own answers (arXiv 2511.21056).

Given trusted rows and rows to weigh, some of them with G answers of an earlier policy π_old;

    factor_i   1 for the k = max(1, ⌊B·(1 − filter_rate)⌋) rows of the largest weights of the whole batch, else 0
    ℓ_masked   (1/G)·Σ_g (1/|y_g|)·Σ_t sg(r_t)·(−log π_θ(y_t)),   r_t = min( exp(log π_θ − max(log π_old, −30)), 10 )

The public code averages the batch before the gate, divides by G twice and shifts the log-probs twice: none of it here.
log π_old is what the engine reported for the tokens that it sampled; no text is tokenised again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from raylign.learners.algorithms.bilevel.two_levels import TwoLevelConfig, TwoLevelObjective
from raylign.learners.algorithms.facts import RefreshPlan, RunRows
from raylign.learners.examples.row_shares import gate
from raylign.learners.losses.policy import nll
from raylign.learners.meters.metric import PassMetrics, maximum, minimum

if TYPE_CHECKING:
    import torch

    from raylign.learners.examples.micro_batch import MicroBatch

LOWEST_OLD_LOGP = -30.0
LARGEST_RATIO = 10.0


class BdrOnlineConfig(TwoLevelConfig):
    """Bilevel data selection with online self-refining generation. G, temperature and length: section `sampling`."""

    name: Literal["bdr_online"] = "bdr_online"
    """Which algorithm this is."""
    filter_rate: float = Field(0.1, ge=0, le=1)
    """Share of a batch's rows that the gate leaves out of the model's loss: those of the smallest weights."""
    dynamic: bool = False
    """Which rows are answered: drawn once before training; true: those of the smallest weights, at each refresh."""
    masked_share: float = Field(0.5, gt=0, le=1)
    """Share of rows whose response is replaced by the policy's answers."""
    generation_every_steps: int = Field(10, ge=1)
    """Steps from one refresh of the answers to the next."""
    online_warmup_steps: int = Field(5000, ge=0)
    """No refresh before this step (5000 is fixed in the public code, although its text describes 0)."""

    @property
    def gated_share(self) -> float:
        return self.filter_rate

    @property
    def refresh(self) -> RefreshPlan:
        return RefreshPlan(self.dynamic, self.masked_share, self.generation_every_steps, self.online_warmup_steps)

    def idle_settings(self, num_steps: int) -> Iterator[str]:
        yield from super().idle_settings(num_steps)
        if self.online_warmup_steps >= num_steps:
            yield (
                f"algorithm.online_warmup_steps is {self.online_warmup_steps} and the run has {num_steps} steps: "
                "engines are held and no answer is ever generated; set it to 0, or use bdr"
            )

    def build_objective(self, max_staleness: int = 0, rows: RunRows | None = None) -> BdrOnline:
        assert rows is not None, "the curriculum tells what there is to weigh"
        return BdrOnline(self, rows)


class BdrOnline(TwoLevelObjective[BdrOnlineConfig]):
    """Implements `factors` and `token_losses`."""

    def factors(self, weights: Sequence[float]) -> list[float]:
        return gate(weights, self.config.filter_rate)

    def token_losses(self, logps: torch.Tensor, batch: MicroBatch) -> tuple[torch.Tensor, PassMetrics]:
        assert batch.old_logps is not None, "every example carries them"
        is_sampled = batch.facts["sampled"][batch.sequence_index] > 0
        ratios = importance_ratios(logps, batch.old_logps)
        ratios = ratios.where(is_sampled, ratios.new_ones(()))
        extremes = {"selection/max_ratio": maximum(ratios.max()), "selection/min_ratio": minimum(ratios.min())}
        return nll(logps) * ratios, extremes


def importance_ratios(logps: torch.Tensor, old_logps: torch.Tensor) -> torch.Tensor:
    """(N,) r_t, detached."""
    return (logps.detach() - old_logps.clamp(min=LOWEST_OLD_LOGP)).exp().clamp(max=LARGEST_RATIO)
