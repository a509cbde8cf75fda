"""The learner's DeepSpeed engine: `logprobs`, `forward_backward`, `step`, `save`/`load`.

Given a `PolicyModel` and a `LearnerConfig`; gives log-probs of micro-batches and optimizer steps on a loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raylign.learners.engines.config import LearnerConfig, resolve_dtype
from raylign.learners.engines.distributed import local_device, rank, reduce_metrics, world_size
from raylign.learners.engines.schedule import learning_rate

if TYPE_CHECKING:
    import torch

    from raylign.learners.examples.micro_batch import MicroBatch
    from raylign.learners.model.policy_model import PolicyModel

    LossFunction = Callable[[torch.Tensor, torch.Tensor, MicroBatch], tuple[torch.Tensor, dict[str, torch.Tensor]]]


NUM_NAMED_ROWS = 8


class NonFiniteError(RuntimeError):
    """A loss or gradient was NaN or infinite; the optimizer has not moved and the batch lies on disk."""


class DeepSpeedEngine:
    """Verbs over `deepspeed.initialize`. All ranks call every verb, with equally many micro-batches."""

    def __init__(
        self, policy: PolicyModel, config: LearnerConfig, total_optimizer_steps: int, debug_folder: Path
    ) -> None:
        import torch

        self.config = config
        self.device = local_device()
        self.total_optimizer_steps = total_optimizer_steps
        self.debug_folder = debug_folder
        self.num_steps = 0
        self._pending: list[MicroBatch] = []
        self._plain_grad_norm = 0.0
        bf16 = resolve_dtype(config) == "bfloat16"
        self.zero_stage = max(1, config.zero_stage) if bf16 else config.zero_stage
        self.trainable = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        shared = {"lr": config.learning_rate, "eps": config.adam_epsilon, "weight_decay": config.weight_decay}
        optimizer: torch.optim.Optimizer
        if config.optimizer == "adamw":
            optimizer = torch.optim.AdamW(self.trainable, betas=config.adam_betas, fused=True, **shared)
        else:
            optimizer = torch.optim.RMSprop(self.trainable, **shared)
        if self.zero_stage == 0:
            optimizer.register_step_pre_hook(lambda *_: self._check_and_clip())
        self._engine = _initialize(policy, self._deepspeed_config(bf16), optimizer)
        self.policy = policy

    def _deepspeed_config(self, bf16: bool) -> dict[str, Any]:
        return {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            # backward() only accumulates and step() is the boundary: any number of passes makes one step
            "managed_gradient_accumulation": False,
            # at stage 0 `_check_and_clip` does it, so that the norm is known before the optimizer moves
            "gradient_clipping": self.config.max_grad_norm if self.zero_stage else 0.0,
            "zero_allow_untested_optimizer": True,
            "zero_optimization": {
                "stage": self.zero_stage,
                "overlap_comm": False,
                "reduce_scatter": self.device.type == "cuda",
                "stage3_param_persistence_threshold": 1000,
            },
            "bf16": {"enabled": bf16, **({"check_grad_overflow": True} if bf16 else {})},
            "data_types": {"grad_accum_dtype": "fp32"},
            "steps_per_print": None,
        }

    def logprobs(self, micro_batches: Sequence[MicroBatch]) -> list[torch.Tensor]:
        """(N,) log-probs of each micro-batch's completion tokens, on the CPU."""
        with self._not_training():
            return [self._engine(batch.to(self.device))[0].cpu() for batch in micro_batches]

    def forward_backward(self, micro_batches: Sequence[MicroBatch], loss: LossFunction) -> dict[str, float]:
        """Add the gradients of Σ loss over micro-batches and ranks to those held; gives loss and metrics,
        reduced over ranks.
        """
        totals, finite = self._passes(micro_batches, loss, self._backward)
        self._pending.extend(micro_batches)
        if totals.pop("num_non_finite/sum"):
            bad = [batch for batch, ok in zip(micro_batches, finite, strict=True) if not ok]
            raise self._non_finite("loss", bad)
        return totals

    def evaluate(self, micro_batches: Sequence[MicroBatch], loss: LossFunction) -> dict[str, float]:
        """The same numbers without any gradient, and without dropout."""
        with self._not_training():
            totals, _ = self._passes(micro_batches, loss, lambda share: None)
        totals.pop("num_non_finite/sum")
        return totals

    @contextmanager
    def _not_training(self) -> Iterator[None]:
        """Inside: no gradient, no dropout."""
        import torch

        self.policy.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.policy.train()

    def _backward(self, share: torch.Tensor) -> None:
        # DeepSpeed averages over the ranks; shares are to be added
        self._engine.backward(share * world_size(), scale_wrt_gas=False)

    def _passes(
        self, micro_batches: Sequence[MicroBatch], loss: LossFunction, use: Callable[[torch.Tensor], None]
    ) -> tuple[dict[str, float], list[bool]]:
        """Sums over micro-batches and ranks, and which of this rank's losses are finite."""
        import torch

        totals: dict[str, torch.Tensor] = {}
        finite = []
        for micro_batch in micro_batches:
            batch = micro_batch.to(self.device)
            logps, entropies = self._engine(batch)
            share, metrics = loss(logps, entropies, batch)
            finite.append(torch.isfinite(share.detach()))
            use(share)
            for key, value in {"learner/loss/sum": share.detach(), **metrics}.items():
                if key not in totals:
                    totals[key] = value.detach().double()
                elif key.endswith("/max"):
                    totals[key] = torch.maximum(totals[key], value.detach().double())
                elif key.endswith("/min"):
                    totals[key] = torch.minimum(totals[key], value.detach().double())
                else:
                    totals[key] = totals[key] + value.detach().double()
        is_finite = torch.stack(finite)
        totals["num_non_finite/sum"] = (~is_finite).sum()
        return reduce_metrics(totals), is_finite.tolist()

    def step(self) -> dict[str, float]:
        """One optimizer step on the gradients held; gives the gradient norm before clipping and the learning rate."""
        rate = learning_rate(self.config, self.num_steps, self.total_optimizer_steps)
        optimizer = self._engine.optimizer
        for group in optimizer.param_groups:
            group["lr"] = rate
        self._engine.step()
        if self.zero_stage and optimizer.overflow:
            raise self._non_finite("gradient", self._pending)
        self._pending = []
        self.num_steps += 1
        norm = float(optimizer._global_grad_norm) if self.zero_stage else self._plain_grad_norm
        return {"learner/grad_norm": norm, "learner/learning_rate": rate}

    def _check_and_clip(self) -> None:
        """Stage 0, between the reduction of gradients and the optimizer: stop or clip."""
        import torch

        norm = torch.nn.utils.clip_grad_norm_(self.trainable, self.config.max_grad_norm)
        self._plain_grad_norm = norm.item()
        if not np.isfinite(self._plain_grad_norm):
            raise self._non_finite("gradient", self._pending)

    def _non_finite(self, what: str, batches: Sequence[MicroBatch]) -> NonFiniteError:
        path = self.debug_folder / f"non_finite_step{self.num_steps}_rank{rank()}.npz"
        if batches:
            self.debug_folder.mkdir(parents=True, exist_ok=True)
            arrays = [
                {f"{number}/{name}": array for name, array in batch.arrays().items()}
                for number, batch in enumerate(batches)
            ]
            merged: dict[str, Any] = {name: array for part in arrays for name, array in part.items()}
            np.savez(path, **merged)
        where = f"saved as {path}" if batches else f"another rank saved it beside {path}"
        rows = sorted({row for batch in batches for row in batch.rows if row >= 0})
        named = f" (rows {', '.join(map(str, rows[:NUM_NAMED_ROWS]))}{', …' if rows[NUM_NAMED_ROWS:] else ''})"
        where += named if rows else ""
        return NonFiniteError(
            f"{what} not finite at optimizer step {self.num_steps}, before the optimizer moved; micro-batch {where}. "
            "Look there for extreme log-probs or advantages; a lower learning rate or max_grad_norm often helps."
        )

    def offload(self) -> None:
        """Give the GPU's memory to the engine that shares it (colocated mode)."""
        import torch

        if hasattr(self._engine.optimizer, "offload_states"):
            self._engine.offload_states()
        torch.cuda.empty_cache()

    def reload(self) -> None:
        """Take it back."""
        if hasattr(self._engine.optimizer, "reload_states"):
            self._engine.reload_states()

    def save(self, folder: Path, extra: dict[str, Any]) -> None:
        """Weights, optimizer, step and random states, and `extra`. Resume with as many ranks."""
        import torch

        state = {**extra, "num_steps": self.num_steps, "cpu_rng": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        self._engine.save_checkpoint(str(folder), tag="state", client_state=state)

    def load(self, folder: Path) -> dict[str, Any]:
        """Take up what `save` wrote; gives its state, `extra` included."""
        import torch

        path, state = self._engine.load_checkpoint(str(folder), tag="state")
        if path is None:
            raise ValueError(f"{folder} holds no learner state for this ZeRO stage and number of ranks")
        self.num_steps = state["num_steps"]
        torch.set_rng_state(state["cpu_rng"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)
        return state

    def gathered(self, parameters: Sequence[torch.nn.Parameter]) -> Any:
        """Context in which the full `parameters` are there (ZeRO-3). A collective; never nest it."""
        import deepspeed

        return deepspeed.zero.GatheredParameters(list(parameters), enabled=self.zero_stage == 3)


def shard_reference(policy: PolicyModel, config: LearnerConfig) -> Callable[[MicroBatch], Any]:
    """The frozen reference ready to run: sharded under ZeRO-3, else whole on every rank."""
    import torch

    bf16 = resolve_dtype(config) == "bfloat16"
    if config.zero_stage < 3:
        return policy.to(local_device(), torch.bfloat16 if bf16 else torch.float32)
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3},
        "bf16": {"enabled": bf16},
        "steps_per_print": None,
    }
    return _initialize(policy, settings, None)


def _initialize(policy: PolicyModel, settings: dict[str, Any], optimizer: Any) -> Any:
    """`deepspeed.initialize`, quiet, and without compiling its shared-memory op (25 s; of use to inference only)."""
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel("ERROR")
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed.initialize(model=policy, optimizer=optimizer, config=settings, dist_init_required=False)[0]
