"""The `reward_model` reward: a sequence-classification model with one output.

Given prompts and completions, renders each pair with the tokenizer's chat template (prompt and completion joined
where it has none; a model that we trained is fed as in training) and gives the model's score. Texts are batched by
length, so that little padding is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from raylign.rewards.base import Item, Reward, Score, typed_scores
from raylign.rewards.model_place import ModelConfig, config_and_tokenizer, length_buckets, padded
from raylign.rewards.published_heads import add_bias, head_of, renamed

if TYPE_CHECKING:
    import torch

TRAINED_BY_US = "raylign_scorer"
"""Key in the config of a model that `algorithm: {name: reward_model}` trained: it reads what it was trained on, the
rendered prompt and the answer, encoded apart, with the end token after a finished answer."""


class RewardModelConfig(ModelConfig):
    """A sequence-classification model that scores (prompt, completion)."""

    name: Literal["reward_model"] = "reward_model"
    """Which reward."""
    model: str
    """Model folder or Hugging Face id: what AutoModelForSequenceClassification loads with one label, or one of the
    beaver models or Eurus-RM, whose heads are known."""
    text_pair: bool = False
    """Encode prompt and answer as a pair of texts, with the tokenizer's separators between them, as models such as
    reward-model-deberta-v3 were trained; false: as a chat, or joined where the tokenizer has no template."""
    max_tokens: int = Field(4096, ge=1)
    """Of a longer prompt and completion the last so many tokens are read."""


class RewardModel(Reward):
    is_batched = True

    def __init__(self, config: RewardModelConfig) -> None:
        from transformers import AutoModelForSequenceClassification

        self._config = config
        model_config, self._tokenizer = config_and_tokenizer("reward model", config.model)
        if "DebertaV2PairRM" in (getattr(model_config, "architectures", None) or ()):
            raise ValueError(f"reward model {config.model!r} compares two answers: it is {{name: pair_model}}")
        head = head_of(model_config, config.model)
        if head is not None:
            model_config.num_labels = 1
        if model_config.num_labels != 1:
            raise ValueError(
                f"reward model {config.model!r} has {model_config.num_labels} labels, not one: it is no reward model"
            )
        size = model_config.get_text_config().vocab_size
        if self._tokenizer.vocab_size > size:  # without added tokens, which a text need not hold
            raise ValueError(
                f"reward model {config.model!r} knows {size} tokens and its tokenizer {self._tokenizer.vocab_size}: "
                "they do not belong together; give a folder with the tokenizer that the model was trained with"
            )
        self._as_trained = bool(getattr(model_config, TRAINED_BY_US, False))
        self._device, dtype = config.place()
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            config.model,
            config=model_config,
            dtype=dtype,
            output_loading_info=True,
            trust_remote_code=False,
            use_safetensors=True,
            **({} if head is None else {"key_mapping": renamed(head)}),
        )
        if loading["missing_keys"]:
            # transformers would fill them with noise and go on
            missing = ", ".join(sorted(loading["missing_keys"]))
            raise ValueError(f"reward model {config.model!r} lacks weights ({missing}): it is no reward model")
        if head is not None:
            add_bias(model, head, config.model)
        pad_id = model_config.get_text_config().pad_token_id
        names_padding = pad_id in range(size)  # some published configs say -1
        self._reads_last_token = hasattr(model, "score") and (self._as_trained or not names_padding or head is not None)
        """By length; else where transformers reads the score of a row alone: at the last token that is not `_pad_id`,
        or wherever a model that is no decoder has it."""
        self._pad_id: int = pad_id if names_padding else 0
        self._model: Any = model.to(self._device).eval()

    def score(self, items: Sequence[Item]) -> list[list[Score]]:
        token_ids = [
            self._encode(item, text, not item.finished or item.finished[index])
            for item in items
            for index, text in enumerate(item.completions)
        ]
        values = self._forward(token_ids)
        scores: list[list[Score]] = []
        for item in items:
            scores.append(typed_scores(values[: len(item.completions)], len(item.completions)))
            values = values[len(item.completions) :]
        return scores

    def _encode(self, item: Item, completion: str, finished: bool) -> list[int]:
        if self._as_trained:
            parts = [self._tokenizer(text, add_special_tokens=False)["input_ids"] for text in (item.prompt, completion)]
            token_ids = parts[0] + parts[1] + ([self._tokenizer.eos_token_id] if finished else [])
        elif self._config.text_pair:
            token_ids = self._tokenizer(item.prompt, completion)["input_ids"]
        elif self._tokenizer.chat_template:
            chat = list(item.messages) or [{"role": "user", "content": item.prompt}]
            chat.append({"role": "assistant", "content": completion})
            text = self._tokenizer.apply_chat_template(chat, tokenize=False)
            token_ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            token_ids = self._tokenizer(item.prompt + completion)["input_ids"]
        return token_ids[-self._config.max_tokens :] or [self._pad_id]

    def _forward(self, token_ids: Sequence[list[int]]) -> list[float]:
        import torch

        values = [0.0] * len(token_ids)
        for rows in length_buckets([len(ids) for ids in token_ids], self._config.batch_tokens):
            token_ids_BT, mask = padded(token_ids, rows, self._pad_id)
            with torch.inference_mode():
                logits = self._logits(token_ids_BT.to(self._device), mask.to(self._device))
            for row, value in zip(rows, logits[:, 0].float().tolist(), strict=True):
                values[row] = value
        return values

    def _logits(self, token_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, T) token ids, padded on the right, and their mask → (B, 1)."""
        if not self._reads_last_token:
            return self._model(input_ids=token_ids, attention_mask=mask).logits
        backbone = self._model.get_submodule(self._model.base_model_prefix)
        hidden = backbone(input_ids=token_ids, attention_mask=mask, use_cache=False).last_hidden_state
        return self._model.score(hidden[range(len(mask)), mask.sum(1) - 1])

    def close(self) -> None:
        self._model = None
