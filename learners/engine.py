"""The learner's DeepSpeed engine: `logprobs`, `forward_backward`, `step`, `save`/`load`.

Given a model folder and a `LearnerConfig`; gives log-probs of token sequences and optimizer steps on a loss.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class LoraConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """Low-rank adapters, through peft."""

    rank: int = Field(16, ge=1)
    """Rank of the update matrices."""
    alpha: float = Field(32.0, gt=0)
    """Scale: the update is multiplied by alpha / rank."""
    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    """Modules that get an adapter."""


class LearnerConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """The learner group and its optimizer."""

    num_ranks: int = Field(1, ge=1)
    """Data-parallel processes; one per GPU on GPU machines."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage: what is sharded over the ranks."""
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
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's decoupled weight decay."""
    adam_betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's averaging constants."""
    adam_epsilon: float = Field(1e-8, gt=0)
    """AdamW's denominator floor."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this global norm."""
    micro_batch_tokens: int = Field(8192, ge=1)
    """Token budget (padding included) of one forward/backward pass on one rank."""
    layout: Literal["auto", "padded", "packed"] = "auto"
    """Micro-batches: rows padded to equal length and bucketed by length, or packed into one row; auto: packed on GPU."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""
    logit_chunk_tokens: int = Field(4096, ge=1)
    """Tokens whose logits are held at once."""
    lora: LoraConfig | None = None
    """Train adapters instead of all weights."""
    threads_per_rank: int | Literal["auto"] = "auto"
    """CPU threads of one rank; auto: cores divided by ranks."""
    start_deadline_s: float = Field(300, gt=0)
    """How long the group may take to start."""
    step_deadline_s: float = Field(1800, gt=0)
    """How long one update may take."""
