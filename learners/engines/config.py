"""The configuration of the learner group and its optimizer, and what its `auto` values mean here.

Given a `LearnerConfig`; gives the dtype and the token budget of a pass.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from raylign.learners.engines.distributed import local_device


class LoraConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """Low-rank adapters, through peft."""

    rank: int = Field(16, ge=1)
    """Rank of the update matrices."""
    alpha: float = Field(32.0, gt=0)
    """Scale: the update is multiplied by alpha / rank."""
    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    """Modules that get an adapter."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of an adapter's inputs left out in training passes, in no others; not where answers of the policy are
    learned from. The numbers then depend on the number of ranks and on the micro-batches."""


class LearnerConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """The learner group and its optimizer."""

    num_ranks: int = Field(1, ge=1)
    """Data-parallel processes; one per GPU on GPU machines."""
    zero_stage: int = Field(0, ge=0, le=3)
    """DeepSpeed ZeRO stage: what is sharded over the ranks. bfloat16 at stage 0 runs as stage 1, which keeps
    its masters; on a GPU that an engine has by turns all run as stage 2, which can leave it.
    """
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Computation; masters stay float32. auto: float32 on CPU, bfloat16 on GPU."""
    learning_rate: float = Field(1e-6, gt=0)
    """Peak learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """After warm-up: hold, or decay to `final_learning_rate_share` at the last step."""
    final_learning_rate_share: float = Field(0.1, ge=0, le=1)
    """Last learning rate of a decaying schedule, as a share of the peak."""
    warmup_steps: int = Field(0, ge=0)
    """Optimizer steps of linear warm-up."""
    optimizer: Literal["adamw", "rmsprop"] = "adamw"
    """rmsprop keeps one average instead of two; the published preference recipes use it."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's decoupled weight decay; added to the gradient with rmsprop."""
    adam_betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's averaging constants."""
    adam_epsilon: float = Field(1e-8, gt=0)
    """AdamW's denominator floor."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this global norm."""
    micro_batch_tokens: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Token budget (padding included) of one forward/backward pass on one rank; auto: 8192 on GPU, 2048 on CPU,
    where that is faster."""
    layout: Literal["auto", "padded", "packed"] = "auto"
    """Micro-batches: rows padded to equal length and bucketed by length, or packed into one row; auto: packed
    on CPU and in bfloat16, where the model's attention allows it.
    """
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""
    logit_chunk_tokens: int = Field(4096, ge=1)
    """Tokens whose logits are held at once."""
    reference_path: str | None = None
    """Model of log π_ref; empty: the start model (with LoRA, the adapters switched off)."""
    lora: LoraConfig | None = None
    """Train adapters instead of all weights."""
    threads_per_rank: int | Literal["auto"] = "auto"
    """CPU threads of one rank; auto: the cores that the learner may use, divided by ranks."""
    start_deadline_s: float = Field(300, gt=0)
    """How long the group may take to start."""
    step_deadline_s: float = Field(1800, gt=0)
    """How long one update may take."""
    silence_deadline_s: float = Field(30, gt=0)
    """A rank whose process has given no sign of life for so long, be it stopped or its node cut off, is taken for
    dead."""
    max_restarts: int = Field(3, ge=0)
    """How often the group may be lost and started again from the last checkpoint without getting any further; then the
    run ends. 0: a lost group ends it at once."""


def resolve_dtype(config: LearnerConfig) -> Literal["float32", "bfloat16"]:
    """What `auto` means here."""
    if config.dtype != "auto":
        return config.dtype
    return "bfloat16" if local_device().type == "cuda" else "float32"


def resolve_micro_batch_tokens(config: LearnerConfig, on_gpu: bool) -> int:
    """What `auto` means here."""
    if config.micro_batch_tokens != "auto":
        return config.micro_batch_tokens
    return 8192 if on_gpu else 2048
