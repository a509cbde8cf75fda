"""The `pair_model` reward: a model that reads a prompt with two answers and says which is better, as PairRM does.

Given the completions of one prompt; asks for every ordered pair of them and gives each the mean of what it wins by,
itself (by 0) included: of two answers, σ(difference of their scores) is then the model's own probability, both orders
averaged.

    <|source|> prompt, <|candidate1|> answer, <|candidate2|> answer   →  DeBERTa-v2
    head([source, candidate1]) − head([source, candidate2])           →  by how much the first is better

No code of the model's folder is run. One answer alone cannot be compared and is a failure.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from raylign.rewards.base import Item, Reward, RewardFailure, Score, typed_scores
from raylign.rewards.model_place import ModelConfig, config_and_tokenizer, length_buckets, padded
from raylign.rewards.published_heads import stored_tensor

if TYPE_CHECKING:
    import torch

ARCHITECTURE = "DebertaV2PairRM"
PARTS = {"source": "<|source|>", "cand1": "<|candidate1|>", "cand2": "<|candidate2|>"}
"""By its name in the model's config, the token whose state stands for a text."""
LEAST_TOKENS = 4
"""Of an answer, where the prompt leaves it no room: its mark and what the tokenizer puts around a text."""
HEAD = ("head_layer.1", "head_layer.4")
"""Two linear layers with a tanh between them; what is numbered between drops units in training."""


class PairModelConfig(ModelConfig):
    """A model that compares two answers to a prompt (PairRM); an answer's score is by how much it beats the others."""

    name: Literal["pair_model"] = "pair_model"
    """Which reward."""
    model: str
    """Model folder or Hugging Face id, of the class DebertaV2PairRM (`llm-blender/PairRM-hf`)."""
    max_tokens: int = Field(2048, ge=8)
    """Prompt and both answers together; the answers share equally what the prompt leaves."""
    max_prompt_tokens: int = Field(1224, ge=4)
    """Of a longer prompt the first so many tokens are read."""


class PairModel(Reward):
    is_batched = True

    def __init__(self, config: PairModelConfig) -> None:
        from transformers import DebertaV2Model

        class Backbone(DebertaV2Model):
            _keys_to_ignore_on_load_unexpected = (r"^head_layer\.",)  # read below

        self._config = config
        model_config, self._tokenizer = config_and_tokenizer("pair model", config.model)
        classes = list(getattr(model_config, "architectures", None) or ())
        if ARCHITECTURE not in classes:
            raise ValueError(
                f"pair model {config.model!r} is of class {', '.join(classes) or 'unknown'}, not {ARCHITECTURE}; a "
                "model that scores one answer is {name: reward_model}"
            )
        self._marks = {name: int(getattr(model_config, f"{name}_prefix_id")) for name in PARTS}
        for name, token in PARTS.items():
            if self._tokenizer.convert_tokens_to_ids(token) != self._marks[name]:
                raise ValueError(
                    f"pair model {config.model!r}: its tokenizer does not know {token} as {self._marks[name]}: they do "
                    "not belong together; give a folder with the tokenizer that the model was trained with"
                )
        self._device, dtype = config.place()
        backbone, loading = Backbone.from_pretrained(
            config.model,
            config=model_config,
            dtype=dtype,
            output_loading_info=True,
            use_safetensors=True,
            key_mapping={r"^pretrained_model\.": ""},
        )
        head = {f"{layer}.{kind}": stored_tensor(config.model, f"{layer}.{kind}")
                for layer in HEAD for kind in ("weight", "bias")}  # fmt: skip
        if missing := [*sorted(loading["missing_keys"]), *(name for name, tensor in head.items() if tensor is None)]:
            raise ValueError(f"pair model {config.model!r} lacks weights ({', '.join(missing)})")
        self._backbone: Any = backbone.to(self._device).eval()
        self._head = {name: tensor.to(self._device, dtype) for name, tensor in head.items() if tensor is not None}
        self._pad_id: int = self._tokenizer.pad_token_id or 0

    def score(self, items: Sequence[Item]) -> list[list[Score]]:
        pairs = [(item, *order) for item in items for order in permutations(range(len(item.completions)), 2)]
        won_by = iter(self._forward([self._encode(item, first, second) for item, first, second in pairs]))
        return [self._scores_of(item, won_by) for item in items]

    def _scores_of(self, item: Item, won_by: Any) -> list[Score]:
        count = len(item.completions)
        if count == 1:
            return [RewardFailure("exception", "one answer alone: pair_model compares several answers to one prompt")]
        totals = [0.0] * count
        for first, second in permutations(range(count), 2):
            half = next(won_by) / 2  # each pair is asked in both orders
            totals[first] += half
            totals[second] -= half
        return typed_scores([total / count for total in totals], count)

    def _encode(self, item: Item, first: int, second: int) -> tuple[list[int], list[int]]:
        """Token ids, and where the marks of the three texts stand; a text that spells a mark changes nothing."""
        token_ids = self._ids(PARTS["source"] + prompt_text(item), self._config.max_prompt_tokens)
        places = [token_ids.index(self._marks["source"])]
        room = max((self._config.max_tokens - len(token_ids)) // 2, LEAST_TOKENS)
        for name, index in (("cand1", first), ("cand2", second)):
            answer = self._ids(PARTS[name] + item.completions[index], room)
            places.append(len(token_ids) + answer.index(self._marks[name]))
            token_ids = token_ids + answer
        return token_ids, places

    def _ids(self, text: str, most: int) -> list[int]:
        return list(self._tokenizer(text, truncation=True, max_length=most)["input_ids"])

    def _forward(self, encoded: Sequence[tuple[list[int], list[int]]]) -> list[float]:
        import torch

        values = [0.0] * len(encoded)
        token_ids = [ids for ids, _ in encoded]
        for rows in length_buckets([len(ids) for ids in token_ids], self._config.batch_tokens):
            token_ids_BT, mask = padded(token_ids, rows, self._pad_id)
            places = torch.tensor([encoded[row][1] for row in rows])
            with torch.inference_mode():
                margins = self._margins(*(each.to(self._device) for each in (token_ids_BT, mask, places)))
            for row, value in zip(rows, margins.float().tolist(), strict=True):
                values[row] = value
        return values

    def _margins(self, token_ids: torch.Tensor, mask: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """(B, T) token ids and mask, (B, 3) places of the marks → (B,): by how much the first answer is better."""
        import torch

        hidden = self._backbone(input_ids=token_ids, attention_mask=mask).last_hidden_state  # (B, T, H)
        rows = torch.arange(len(token_ids), device=hidden.device)
        prompt, first, second = (hidden[rows, places[:, part]] for part in range(3))  # (B, H) each
        scores = [self._head_of(torch.cat([prompt, answer], dim=-1)) for answer in (first, second)]
        return (scores[0] - scores[1]).mean(-1)

    def _head_of(self, states: torch.Tensor) -> torch.Tensor:
        from torch.nn.functional import linear

        inner = linear(states, self._head["head_layer.1.weight"], self._head["head_layer.1.bias"]).tanh()
        return linear(inner, self._head["head_layer.4.weight"], self._head["head_layer.4.bias"])

    def close(self) -> None:
        self._backbone = None


def prompt_text(item: Item) -> str:
    """What was asked: the user's one message as it is, a longer chat as it was rendered."""
    asked = [message["content"] for message in item.messages if message["role"] != "system"]
    return asked[0] if len(asked) == 1 else item.prompt
