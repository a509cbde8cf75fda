"""The policy: a Hugging Face causal language model that gives log-probs of completion tokens.

Given a model folder or id; gives `PolicyModel`, whose forward returns (logps, entropies) of a micro-batch's
completion tokens with logits computed in chunks, and the frozen or adapter-free reference of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from raylign.learners.engines.config import LearnerConfig, LoraConfig, resolve_dtype
from raylign.learners.engines.distributed import local_device
from raylign.learners.examples.micro_batch import Layout, MicroBatch
from raylign.learners.model.attention import PACKED_ATTENTION, register_packed_attention

if TYPE_CHECKING:
    from peft import PeftModel


class TokenLogps(nn.Module):
    """Hidden states → log-probs and entropies of given tokens.

    Holds the head's own parameters, so that under ZeRO-3 one gather serves all chunks: ranks have different
    numbers of chunks, and every gather is a collective.
    """

    def __init__(self, head: nn.Linear, temperature: float, chunk_tokens: int, softcap: float | None) -> None:
        super().__init__()
        self.weight = head.weight
        self.bias = head.bias
        self.temperature = temperature
        self.chunk_tokens = chunk_tokens
        self.softcap = softcap
        self.entropy_has_gradient = False

    def forward(self, hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """hidden (N, H), targets (N,) → logps (N,), entropies (N,; detached unless asked for), in float32."""
        if len(hidden) <= self.chunk_tokens:
            return self._chunk(hidden, targets)
        pieces = [
            checkpoint(self._chunk, h, t, use_reentrant=False, determinism_check="none")
            for h, t in zip(hidden.split(self.chunk_tokens), targets.split(self.chunk_tokens), strict=True)
        ]
        return torch.cat([logps for logps, _ in pieces]), torch.cat([entropies for _, entropies in pieces])

    def _chunk(self, hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = nn.functional.linear(hidden, self.weight, self.bias).float()
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        if self.temperature != 1.0:
            logits = logits / self.temperature
        all_logps = torch.log_softmax(logits, dim=-1)
        del logits  # as large as everything that follows
        with torch.set_grad_enabled(self.entropy_has_gradient and torch.is_grad_enabled()):
            probabilities = all_logps.exp()
            terms = probabilities * all_logps if probabilities.requires_grad else probabilities.mul_(all_logps)
            entropies = -terms.sum(-1)
        return all_logps.gather(-1, targets[:, None]).squeeze(-1), entropies


class PolicyModel(nn.Module):
    """forward(micro_batch) → (logps (N,), entropies (N,)) at the temperature that completions were sampled at."""

    def __init__(self, model: nn.Module, temperature: float, chunk_tokens: int, peft: PeftModel | None = None) -> None:
        super().__init__()
        self.model = model
        self.token_logps = TokenLogps(
            _head(model), temperature, chunk_tokens, getattr(model.config, "final_logit_softcapping", None)
        )
        self._peft = (peft,)  # in a tuple: not a second owner of the parameters

    @property
    def peft(self) -> PeftModel | None:
        return self._peft[0]

    def forward(self, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.model.get_decoder()(batch.input_ids, use_cache=False, **packed_arguments(batch)).last_hidden_state
        return self.token_logps(hidden.flatten(0, 1).index_select(0, batch.predictor_index), batch.targets)

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """Inside, the adapters are off: the start model. peft's own switch also clears `requires_grad`, which would cut
        the engine's gradient hooks, so only the layers' flag is set."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        layers = [module for module in self.model.modules() if isinstance(module, BaseTunerLayer)]
        for layer in layers:
            layer._disable_adapters = True
        try:
            yield
        finally:
            for layer in layers:
                layer._disable_adapters = False


def packed_arguments(batch: MicroBatch) -> dict[str, Any]:
    """What a model's forward needs to know of a packed row; nothing for a padded one."""
    if batch.runs is None:
        return {}
    lengths = torch.tensor([length for count, length in batch.runs for _ in range(count)])
    boundaries = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return {
        "position_ids": batch.position_ids,
        "packed_runs": batch.runs,
        "packed_boundaries": boundaries.to(batch.input_ids.device, torch.int32),
    }


def resolve_layout(config: LearnerConfig, model_path: str) -> Layout:
    """What `auto` means here: packed where the model has full attention only, but for float32 on GPUs, where no fast
    kernel of variable-length attention exists."""
    from transformers import AutoConfig

    if config.layout != "auto":
        return config.layout
    fast = local_device().type == "cpu" or resolve_dtype(config) == "bfloat16"
    return (
        "packed"
        if fast and _has_full_attention(AutoConfig.from_pretrained(model_path, trust_remote_code=False))
        else "padded"
    )


def _has_full_attention(model_config: Any) -> bool:
    return set(getattr(model_config, "layer_types", None) or ["full_attention"]) == {"full_attention"}


def load_policy(model_path: str, config: LearnerConfig, temperature: float, layout: Layout, seed: int) -> PolicyModel:
    """The trainable policy in float32; with `config.lora`, its adapters are what is trainable."""
    model = _load(model_path, layout)
    peft = None
    if config.lora is not None:
        torch.manual_seed(seed)  # every rank draws the same adapters
        peft = _add_adapters(model, config.lora, model_path)
        model = peft.get_base_model()
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False, "determinism_check": "none"})
    policy = PolicyModel(model, temperature, config.logit_chunk_tokens, peft)
    policy.train()
    return policy


def load_reference(model_path: str, config: LearnerConfig, temperature: float, layout: Layout) -> PolicyModel:
    """A frozen copy for log π_ref."""
    policy = PolicyModel(_load(model_path, layout), temperature, config.logit_chunk_tokens)
    policy.requires_grad_(False)
    policy.eval()
    return policy


def _load(model_path: str, layout: Layout) -> nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    folder = Path(model_path)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"{model_path} holds no weights (*.safetensors): give a folder that `save_model` or init-model wrote"
        )
    model_config = AutoConfig.from_pretrained(model_path, trust_remote_code=False)
    unusual = [
        key for key in ("logit_scale", "logits_scaling") if getattr(model_config, key, None) not in (None, 1, 1.0)
    ]
    if unusual:
        raise ValueError(
            f"{model_path}: its config scales logits ({', '.join(unusual)}), which the learner does not know"
        )
    if layout == "packed":
        if not _has_full_attention(model_config):
            raise ValueError(
                f"{model_path} has layers of type {sorted(set(model_config.layer_types))}; "
                "packing needs full attention: set learner.layout to `padded`"
            )
        register_packed_attention()
    implementation = PACKED_ATTENTION if layout == "packed" else "sdpa"
    model = AutoModelForCausalLM.from_pretrained(
        model_path,
        dtype=torch.float32,
        attn_implementation=implementation,
        trust_remote_code=False,
        use_safetensors=True,
    )
    for module in model.modules():  # a dropped unit would be a mismatch between engine and learner; adapters come later
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    return model


def _head(model: nn.Module) -> nn.Linear:
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise ValueError(
            f"the output head is a {type(head).__name__}: leave lm_head out of learner.lora.target_modules"
        )
    return head


def _add_adapters(model: nn.Module, lora: LoraConfig, model_path: str) -> PeftModel:
    import peft

    peft_config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )
    peft_config.base_model_name_or_path = model_path
    return peft.get_peft_model(model, peft_config, autocast_adapter_dtype=False)
