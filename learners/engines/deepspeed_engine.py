"""The learner's backend on DeepSpeed.

Given a model and a `LearnerConfig`; gives the verbs of `LearnerEngine` over `deepspeed.initialize`, at ZeRO stages 0 to
3. What only DeepSpeed has (stages, its names for sharded parameters) stays in this file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raylign.learners.engines.config import LearnerConfig, resolve_dtype
from raylign.learners.engines.distributed import local_device, reduce_metrics, world_size
from raylign.learners.engines.frozen import FrozenModel, move
from raylign.learners.engines.non_finite import NonFiniteError, non_finite_error
from raylign.learners.engines.schedule import learning_rate
from raylign.learners.engines.state_files import load_as_data
from raylign.learners.engines.universal_state import ADAM_MOMENTS, AVERAGE_OF_RMSPROP, TAG, num_ranks_of
from raylign.learners.meters.metric import Metric, PassMetrics, StepMetrics, add_metrics

if TYPE_CHECKING:
    import torch

    from raylign.learners.engines.base import LearnerModel, LossFunction
    from raylign.learners.examples.micro_batch import MicroBatch

NUM_NON_FINITE = "num_non_finite"
MOST_REDUCED_AT_ONCE = 500_000_000
"""Gradients: DeepSpeed's default."""


class DeepSpeedEngine:
    """Implements `LearnerEngine`."""

    def __init__(
        self, policy: LearnerModel, config: LearnerConfig, total_optimizer_steps: int, debug_folder: Path
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
        # Stage 0 has torch's own optimizer, bfloat16 at stage 1 DeepSpeed's BF16_Optimizer, which cannot be moved;
        # stage 3 moves DeepSpeed's own fused Adam only.
        self.moves_states = self.zero_stage == 2 or (self.zero_stage == 1 and not bf16)
        self.trainable = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        shared = {"lr": config.learning_rate, "eps": config.adam_epsilon, "weight_decay": config.weight_decay}
        optimizer: torch.optim.Optimizer
        if config.optimizer == "adamw":
            optimizer = torch.optim.AdamW(self.trainable, betas=config.adam_betas, fused=True, **shared)
        else:
            optimizer = torch.optim.RMSprop(self.trainable, **shared)
        if self.zero_stage == 0:
            optimizer.register_step_pre_hook(lambda *_: self._check_and_clip())
        num_trained = sum(parameter.numel() for parameter in self.trainable)
        self._engine = _initialize(policy, self._deepspeed_config(bf16, num_trained), optimizer)
        self.policy = policy
        frozen = (parameter for parameter in policy.parameters() if not parameter.requires_grad)
        self._frozen = (*frozen, *policy.buffers())

    def _deepspeed_config(self, bf16: bool, num_trained: int) -> dict[str, Any]:
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
                # DeepSpeed lays out the whole bucket on a GPU, 2 GB of float32 by default, however small the model
                "reduce_bucket_size": min(num_trained, MOST_REDUCED_AT_ONCE),
                "stage3_param_persistence_threshold": 1000,
            },
            "bf16": {"enabled": bf16, **({"check_grad_overflow": True} if bf16 else {})},
            "data_types": {"grad_accum_dtype": "fp32"},
            "steps_per_print": None,
        }

    def logprobs(self, micro_batches: Sequence[MicroBatch]) -> list[torch.Tensor]:
        with self._not_training():
            return [self._engine(batch.to(self.device))[0].cpu() for batch in micro_batches]

    def forward_backward(self, micro_batches: Sequence[MicroBatch], loss: LossFunction) -> StepMetrics:
        totals: PassMetrics = {}
        finite = []
        for micro_batch in micro_batches:
            share, metrics = self._loss_of(micro_batch, loss)
            finite.append(share.detach().isfinite())
            # DeepSpeed averages over the ranks; shares are to be added
            self._engine.backward(share * world_size(), scale_wrt_gas=False)
            add_metrics(totals, metrics)
        self._pending.extend(micro_batches)
        totals[NUM_NON_FINITE] = Metric(sum(~is_finite for is_finite in finite), "sum")
        reduced = reduce_metrics(totals)
        if reduced.pop(NUM_NON_FINITE).value:
            bad = [batch for batch, is_finite in zip(micro_batches, finite, strict=True) if not is_finite]
            raise self._non_finite("loss", bad)
        return reduced

    def evaluate(self, micro_batches: Sequence[MicroBatch], loss: LossFunction) -> StepMetrics:
        totals: PassMetrics = {}
        with self._not_training():
            for micro_batch in micro_batches:
                add_metrics(totals, self._loss_of(micro_batch, loss)[1])
        return reduce_metrics(totals)

    def _loss_of(self, micro_batch: MicroBatch, loss: LossFunction) -> tuple[torch.Tensor, PassMetrics]:
        batch = micro_batch.to(self.device)
        logps, entropies = self._engine(batch)
        return loss(logps, entropies, batch)

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

    def step(self) -> StepMetrics:
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
        return {"learner/grad_norm": Metric(norm, "mean"), "learner/learning_rate": Metric(rate, "mean")}

    def _check_and_clip(self) -> None:
        """Stage 0, between the reduction of gradients and the optimizer: stop or clip."""
        import torch

        norm = torch.nn.utils.clip_grad_norm_(self.trainable, self.config.max_grad_norm)
        self._plain_grad_norm = norm.item()
        if not np.isfinite(self._plain_grad_norm):
            raise self._non_finite("gradient", self._pending)

    def _non_finite(self, what: str, batches: Sequence[MicroBatch]) -> NonFiniteError:
        return non_finite_error(what, self.num_steps, batches, self.debug_folder)

    def full_tensors(self, parameters: Sequence[torch.nn.Parameter]) -> list[torch.Tensor]:
        import deepspeed

        # A context must never be nested; what was gathered lives on in the tensors that alias it.
        with deepspeed.zero.GatheredParameters(list(parameters), enabled=self.zero_stage == 3):
            return [parameter.detach() for parameter in parameters]

    def full_shape(self, parameter: torch.nn.Parameter) -> tuple[int, ...]:
        return tuple(parameter.ds_shape if self.zero_stage == 3 else parameter.shape)

    def offload(self) -> None:
        import torch

        if not self.moves_states:
            raise ValueError(
                f"learner.zero_stage is {self.config.zero_stage} and learner.dtype {resolve_dtype(self.config)}: "
                "DeepSpeed cannot move their optimizer to the host, and an engine shares this GPU; set "
                "learner.zero_stage to 2"
            )
        self._engine.offload_states()
        move(self._frozen, "cpu")  # DeepSpeed moves what it trains, and the model under adapters is most of it
        torch.cuda.empty_cache()

    def reload(self) -> None:
        self._engine.reload_states()
        move(self._frozen, self.device)

    def save(self, folder: Path, extra: Mapping[str, Any]) -> None:
        import torch

        state = {**extra, "num_steps": self.num_steps, "cpu_rng": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        self._engine.save_checkpoint(str(folder), tag=TAG, client_state=state)

    def load(self, folder: Path) -> dict[str, Any]:
        import torch

        written_by = num_ranks_of(folder)
        if written_by not in (None, world_size()):
            raise ValueError(f"{folder} was written by {written_by} ranks, and these are {world_size()}")
        is_whole = written_by is None and self.zero_stage > 0
        self._engine._config.load_universal_checkpoint = is_whole
        path, state = self._engine.load_checkpoint(str(folder), tag=TAG)
        if path is None:
            raise ValueError(f"{folder} holds no learner state for this ZeRO stage")
        if is_whole and self.zero_stage == 3 and self.config.optimizer == "rmsprop":
            for moments in self._engine.optimizer.optimizer.state.values():
                moments[AVERAGE_OF_RMSPROP] = moments.pop(ADAM_MOMENTS[1])
                del moments[ADAM_MOMENTS[0]]
        self.num_steps = state["num_steps"]
        torch.set_rng_state(state["cpu_rng"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)
        return state


def shard_frozen(model: LearnerModel, config: LearnerConfig) -> FrozenModel:
    """Sharded under ZeRO-3, else whole on every rank."""
    import torch

    bf16 = resolve_dtype(config) == "bfloat16"
    if config.zero_stage < 3:
        for parameter in model.parameters():  # buffers stay float32, as DeepSpeed leaves them: rotary angles need it
            parameter.data = parameter.data.to(torch.bfloat16 if bf16 else torch.float32)
        whole = model.to(local_device())
        return FrozenModel(whole, (*whole.parameters(), *whole.buffers()), local_device())
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3},
        "bf16": {"enabled": bf16},
        "steps_per_print": None,
    }
    return FrozenModel(_initialize(model, settings, None), None, local_device())


def _initialize(model: LearnerModel, settings: dict[str, Any], optimizer: torch.optim.Optimizer | None) -> Any:
    """`deepspeed.initialize`, quiet, and without compiling its shared-memory op (25 s; of use to inference only)."""
    import deepspeed
    import torch
    from deepspeed.utils import logger

    logger.setLevel("ERROR")
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if settings["zero_optimization"]["stage"] == 3:
        _cut(model, settings, torch.bfloat16 if settings["bf16"]["enabled"] else torch.float32)
    engine = deepspeed.initialize(model=model, optimizer=optimizer, config=settings, dist_init_required=False)[0]
    if optimizer is not None:  # what is frozen has no checkpoints
        engine.checkpoint_engine.load = load_as_data
    return engine


def _cut(model: LearnerModel, settings: dict[str, Any], dtype: torch.dtype) -> None:
    """One parameter after the other, so that no rank ever holds the whole model: `initialize` casts all of it, and
    moves it to the GPU, before it cuts the first."""
    import deepspeed
    import torch

    for parameter in list(model.parameters()):
        # a copy: DeepSpeed writes rank 0's values over it, and a page of the mapped file that is written to stays
        parameter.data = parameter.data.to(dtype, copy=True)
        alone = torch.nn.Module()
        alone.register_parameter("parameter", parameter)
        deepspeed.zero.Init(module=alone, config_dict_or_path=settings)
    move(model.buffers(), local_device())
