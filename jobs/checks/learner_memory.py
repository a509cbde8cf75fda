"""How much memory one learner rank takes when it takes most, by part, as DeepSpeed 0.19 lays it out.

Given a model's size and a `TrainConfig`; gives bytes by part at the fullest moment: in a pass, where its gradients are
added up over the ranks, or in the optimizer's step. `benchmarks/learner_memory.py` holds it against
measurements.
"""

from __future__ import annotations

from dataclasses import dataclass

from raylign.jobs.checks.machine import GIB
from raylign.jobs.checks.memory_estimate import BYTES, ModelSize, resolved_dtype, trained_parameters
from raylign.jobs.config.train import TrainConfig
from raylign.learners.engines.config import LearnerConfig, resolve_micro_batch_tokens

ACTIVATIONS, LOGITS = "activations (about)", "logits chunk"
LIBRARIES_BYTES = 4 * GIB // 10
"""Measured: a process with torch, DeepSpeed and transformers imported, with its loaded kernels."""
MOST_REDUCED_AT_ONCE = 500_000_000
"""Elements of DeepSpeed's bucket of gradients; the learner makes it no larger than what is trained."""
MOST_GATHERED = 1_000_000_000
"""Parameters that ZeRO-3 keeps whole from their use in the forward pass to that in the backward pass."""

MOST_SENT_AHEAD = 50_000_000
"""Parameters of which ZeRO-3 asks other ranks before they are used."""


def learner_bytes(size: ModelSize, config: TrainConfig, on_gpu: bool) -> dict[str, int]:
    """Of one rank when it takes most; parts that are not there at that moment are left out."""
    return max(_moments(size, config, on_gpu), key=lambda parts: sum(parts.values()))


def sure_bytes(size: ModelSize, config: TrainConfig, on_gpu: bool) -> int:
    """Together, without what is a rule of thumb."""
    return max(sum(parts.values()) - parts.get(ACTIVATIONS, 0) for parts in _moments(size, config, on_gpu))


def _moments(size: ModelSize, config: TrainConfig, on_gpu: bool) -> list[dict[str, int]]:
    rank = _Rank.of(size, config, on_gpu)
    held = rank.held()
    if config.algorithm.needs_reference and config.learner.lora is None:
        held["reference model"] = rank.sharded(size.num_parameters * rank.weight_bytes, from_stage=3)
    if not on_gpu:
        held["libraries"] = LIBRARIES_BYTES
    activations, logits = pass_bytes(size, config, on_gpu)
    in_pass = held | {"gradients (in a pass)": rank.gradients_in_pass(), ACTIVATIONS: activations}
    gathered, on_their_way = rank.gathered()
    return [
        in_pass | ({"weights of other ranks": gathered} if gathered else {}) | {LOGITS: logits},
        in_pass | {"weights of other ranks": gathered + on_their_way},
        held | {"gradients (where ranks add them up)": rank.gradients_reduced()},
        held | {"gradients (in the optimizer's step)": rank.gradients_in_step()},
    ]


@dataclass(frozen=True)
class _Rank:
    """What the model's part of its memory depends on. P parameters of which T are trained, over N ranks."""

    num_parameters: int
    """With adapters."""
    num_trained: int
    num_ranks: int
    stage: int
    """As it runs."""
    is_mixed: bool
    """bfloat16 weights and passes, float32 masters and sums of gradients."""
    averages: int
    """Of the optimizer, for each trained parameter."""
    accumulates: bool
    """Several passes make a step."""
    on_gpu: bool

    @classmethod
    def of(cls, size: ModelSize, config: TrainConfig, on_gpu: bool) -> _Rank:
        learner = config.learner
        trained = trained_parameters(size, config)
        is_mixed = resolved_dtype(learner.dtype, on_gpu) == "bfloat16"
        return cls(
            num_parameters=size.num_parameters + (trained if learner.lora is not None else 0),
            num_trained=trained,
            num_ranks=learner.num_ranks,
            stage=max(1, learner.zero_stage) if is_mixed else learner.zero_stage,
            is_mixed=is_mixed,
            averages=2 if learner.optimizer == "adamw" else 1,
            accumulates=step_tokens(config) > pass_tokens(learner, config, on_gpu),
            on_gpu=on_gpu,
        )

    @property
    def weight_bytes(self) -> int:
        return 2 if self.is_mixed else 4

    def sharded(self, num_bytes: int, from_stage: int) -> int:
        return num_bytes // self.num_ranks if self.stage >= from_stage else num_bytes

    @property
    def _whole(self) -> int:
        """Gradients of all that is trained, in float32."""
        return 4 * self.num_trained

    @property
    def _part(self) -> int:
        return self._whole // self.num_ranks

    @property
    def _bucket(self) -> int:
        """Gradients on their way to other ranks, in the precision of the passes."""
        return self.weight_bytes * min(self.num_trained, MOST_REDUCED_AT_ONCE)

    @property
    def _zeroed(self) -> int:
        """bfloat16 gradients at stage 1, where float32 sums have their place from the start: between passes they are
        set to 0, and stay."""
        return 2 * self.num_trained

    def held(self) -> dict[str, int]:
        """At every moment: weights and the optimizer's. Stages 1 to 3 keep masters even of float32 weights."""
        has_masters = self.stage > 0
        words = ["Adam's moments" if self.averages == 2 else "RMSprop's average", *["float32 masters"][:has_masters]]
        optimizer = 4 * (self.averages + has_masters) * self.num_trained
        return {
            "weights": self.sharded(self.num_parameters * self.weight_bytes, from_stage=3),
            f"optimizer ({', '.join(words)})": self.sharded(optimizer, from_stage=1),
        }

    def gradients_in_pass(self) -> int:
        """With all activations there: sums of earlier passes, and what DeepSpeed has laid out for all time."""
        earlier = self.accumulates
        if self.stage == 0:
            return earlier * self._whole
        if self.stage == 1:
            return self._whole + earlier * self._zeroed if self.is_mixed else earlier * self._whole
        bucket = self._bucket if self.stage == 3 or self.on_gpu else 0  # a host gives no page before it is written
        return bucket + (earlier if self.stage == 2 else 1) * self._part

    def gathered(self) -> tuple[int, int]:
        """Parameters of other ranks at the end of a forward pass, whole, and until the head has its own once more: what
        was sent together is let go together. One rank has them all."""
        if self.stage < 3 or self.num_ranks == 1:
            return 0, 0
        whole, sent = min(self.num_parameters, MOST_GATHERED), min(self.num_parameters, MOST_SENT_AHEAD)
        return self.weight_bytes * whole, self.weight_bytes * sent

    def gradients_reduced(self) -> int:
        """At the end of a backward pass, and at stages 0 and 1 of the last one of a step."""
        if self.stage == 0:
            return self._whole + self._bucket
        if self.stage == 1:
            return self._whole + (self._zeroed if self.is_mixed else self._part)
        if self.stage == 2:
            sums = 1 if self.is_mixed else 1 + self.accumulates
            return self._bucket * (1 + (self.on_gpu and self.num_ranks > 1)) + sums * self._part
        # a copy to scale, and in bfloat16 one in float32: on a host of the whole bucket, on a GPU of a rank's part
        in_float32 = self.is_mixed * (self._part if self.on_gpu else 2 * self._bucket)
        return self._bucket * (1 + (self.num_ranks > 1)) + in_float32 + self._part

    def gradients_in_step(self) -> int:
        if self.stage == 0:
            return self._whole
        if self.stage == 1 and self.is_mixed:
            return self._whole + self._zeroed
        if self.stage == 3:
            return self._bucket + 2 * self._part
        return self._part if self.is_mixed else 2 * self._part


def pass_tokens(learner: LearnerConfig, config: TrainConfig, on_gpu: bool) -> int:
    """Of one pass at most: the budget, or one sequence that is longer."""
    return max(resolve_micro_batch_tokens(learner, on_gpu), config.rollout.engine.max_model_len)


def step_tokens(config: TrainConfig) -> int:
    """Of one rank in one step at most."""
    num_completions = config.sampling.num_completions if config.algorithm.needs_rollouts else 1
    num_sequences = -(-config.rollout.prompts_per_step * num_completions // config.learner.num_ranks)
    return num_sequences * config.rollout.engine.max_model_len


def pass_bytes(size: ModelSize, config: TrainConfig, on_gpu: bool) -> tuple[int, int]:
    """Activations and logits, when a pass turns from forward to backward."""
    learner = config.learner
    num_tokens = min(pass_tokens(learner, config, on_gpu), step_tokens(config))
    dtype_bytes = BYTES[resolved_dtype(learner.dtype, on_gpu)]
    layer = num_tokens * layer_bytes_per_token(size, dtype_bytes, on_gpu)
    entering = num_tokens * size.width * dtype_bytes * size.num_layers
    head = num_tokens * size.width * (norm_bytes(dtype_bytes) + dtype_bytes)
    layers = entering + layer if learner.gradient_checkpointing else layer * size.num_layers
    # log-softmax, its gradient and that of the logits, in float32
    return head + layers, 3 * 4 * min(learner.logit_chunk_tokens, num_tokens) * size.vocabulary_size


def layer_bytes_per_token(size: ModelSize, dtype_bytes: int, on_gpu: bool) -> int:
    """What one layer keeps of a token for the backward pass, counted in transformers' Llama and Qwen models.

    A gated MLP keeps both products, the activation and what it gives. Attention keeps queries, keys and values, each
    copied for its kernel, and its output; on a host keys and values are repeated for each query head."""
    queries, keys = size.query_width, size.num_kv_heads * size.head_width
    kept_heads = 2 * queries if on_gpu else 5 * queries
    if on_gpu:
        kept_heads += 2 * keys
    of_head_norms = (4 + dtype_bytes) * (queries + keys) if size.normalizes_heads else 0
    return 2 * norm_bytes(dtype_bytes) * size.width + dtype_bytes * (4 * size.mlp_width + kept_heads) + of_head_norms


def norm_bytes(dtype_bytes: int) -> int:
    """For each number that goes through a norm: its input in float32, the same normalized, and what it gives."""
    return 4 + 2 * dtype_bytes
