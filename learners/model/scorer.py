"""A scorer: a Hugging Face sequence-classification model with one label, trained where a policy is trained otherwise.

Given a model folder or id (of a causal language model or of a scorer); gives `ScorerModel`, whose forward returns the
score of each sequence where a policy's forward returns log-probs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from raylign.learners.engines.config import LearnerConfig
from raylign.learners.examples.micro_batch import Layout, MicroBatch
from raylign.learners.model.attention import PACKED_ATTENTION, register_packed_attention
from raylign.learners.model.policy_model import packed_arguments

if TYPE_CHECKING:
    from peft import PeftModel

SCORED_AS_TRAINED = "raylign_scorer"
"""Key in the model's config: prompt and answer are encoded apart, and a finished answer ends in the end token (rewards/
reward_model.py reads it)."""
HEAD_NAMES = ("score", "classifier")


class ScorerModel(nn.Module):
    """forward(micro_batch) → (scores (N,), zeros (N,)): at a token's place the score of what comes before it.

    An example to be scored whole ends in one more token, the only one in its loss mask.
    """

    peft: PeftModel | None = None

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._head_name = next(name for name in HEAD_NAMES if hasattr(model, name))

    def forward(self, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        backbone: Any = self.model.get_submodule(str(self.model.base_model_prefix))
        hidden = backbone(batch.input_ids, use_cache=False, **packed_arguments(batch)).last_hidden_state
        places = hidden.flatten(0, 1).index_select(0, batch.predictor_index)
        scores = getattr(self.model, self._head_name)(places)[:, 0].float()
        return scores, torch.zeros_like(scores)

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """A scorer has no reference."""
        yield


def load_scorer(model_path: str, config: LearnerConfig, layout: Layout, seed: int) -> ScorerModel:
    """The trainable scorer in float32; a causal language model gets a new head, drawn from `seed`.

    Its config names the tokenizer's padding token only where that is another than the end token. Without one,
    transformers reads the score of a row alone at its last token, and refuses batches.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    if config.lora is not None:
        raise ValueError("learner.lora is set: a reward model is trained whole; leave lora out")
    model_config = AutoConfig.from_pretrained(model_path, num_labels=1, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(model_path, trust_remote_code=False)
    text_config, pad_id = model_config.get_text_config(), tokenizer.pad_token_id
    # transformers takes the score at the last token of another id than this one: an end token must not hide itself
    can_pad = pad_id != tokenizer.eos_token_id and pad_id in range(text_config.vocab_size)
    text_config.pad_token_id = pad_id if can_pad else None
    if layout == "packed":
        register_packed_attention()
    setattr(model_config, SCORED_AS_TRAINED, True)
    torch.manual_seed(seed)  # every rank draws the same head
    model = AutoModelForSequenceClassification.from_pretrained(
        model_path,
        config=model_config,
        dtype=torch.float32,
        trust_remote_code=False,
        use_safetensors=True,
        attn_implementation=PACKED_ATTENTION if layout == "packed" else "sdpa",
    )
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False, "determinism_check": "none"})
    return ScorerModel(model).train()
