"""The `bertscore` reward: how near the tokens of a completion are to those of a reference, in an encoder's states.

Given completions and references; gives F1 of greedy cosine matches (Zhang et al. 2020, arXiv 1904.09675), best over the
references, by the package `bert-score`, without idf and without rescaling. Departs from the published BLEUBERI code:
what stands in <answer>…</answer> is compared, and an empty text scores 0, as for every other overlap reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from raylign.rewards.answers import inside_open_tag
from raylign.rewards.base import Item, Reward, RewardFailure, Score, WeightedConfig
from raylign.rewards.overlap import with_lengths

NEEDS = (
    "reward bertscore needs the package bert-score (pip install 'raylign[bertscore]') and an encoder, a model folder "
    "or Hugging Face id"
)


class BertScoreConfig(WeightedConfig):
    """BERTScore F1 against the best reference."""

    name: Literal["bertscore"] = "bertscore"
    """Which reward."""
    model: str = "distilbert-base-uncased"
    """Encoder: model folder or Hugging Face id."""
    num_layers: int | None = Field(None, ge=1)
    """Layer whose states are compared; empty: the package's choice for a model of that name."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it runs; auto: the GPU if there is one."""
    batch_size: int = Field(64, ge=1)
    """Texts of one forward pass."""


class BertScoreReward(Reward):
    is_batched = True

    def __init__(self, config: BertScoreConfig) -> None:
        try:
            from bert_score import BERTScorer  # type: ignore[import-untyped]
            from bert_score.utils import model2layers  # type: ignore[import-untyped]
        except ImportError as error:
            raise ValueError(f"{NEEDS} (now {config.model!r}): {error}") from None
        self._config = config
        num_layers = config.num_layers or model2layers.get(config.model) or model2layers.get(Path(config.model).name)
        if num_layers is None:
            raise ValueError(
                f"reward bertscore: the package knows no layer for the model {config.model!r}; set num_layers (the "
                f"model's number of layers, or a lower one), or name one of its models, such as distilbert-base-uncased"
            )
        device = None if config.device == "auto" else config.device
        try:
            self._scorer: Any = BERTScorer(model_type=config.model, num_layers=num_layers, device=device)
        except (OSError, ValueError) as error:
            raise ValueError(f"{NEEDS}; {config.model!r} does not load: {error}") from None
        except AssertionError as error:
            raise ValueError(f"reward bertscore: num_layers is {num_layers}: {error}") from None
        # a tokenizer that knows no limit says 10^30, and longer texts than the positions end in an index error
        limit = getattr(self._scorer._model.config, "max_position_embeddings", None)
        if limit is not None:
            self._scorer._tokenizer.model_max_length = min(self._scorer._tokenizer.model_max_length, limit)

    def score(self, items: Sequence[Item]) -> list[list[Score]]:
        texts = [[inside_open_tag(completion) for completion in item.completions] for item in items]
        pairs = [
            (text, list(item.references))
            for item, texts_G in zip(items, texts, strict=True)
            for text in texts_G
            if text and item.references
        ]
        found = iter(self._f1(pairs))
        return [
            [self._scored(text, item, found) for text in texts_G] for item, texts_G in zip(items, texts, strict=True)
        ]

    def _scored(self, text: str, item: Item, found: Any) -> Score:
        if not item.references:
            return RewardFailure("exception", "the prompt has no reference to compare with; set data.reference")
        shortest = min(len(reference.split()) for reference in item.references)
        return with_lengths(next(found) if text else 0.0, len(text.split()), shortest)

    def _f1(self, pairs: Sequence[tuple[str, list[str]]]) -> list[float]:
        if not pairs:
            return []
        texts, references = [text for text, _ in pairs], [each for _, each in pairs]
        _, _, f1 = self._scorer.score(texts, references, batch_size=self._config.batch_size)
        scores: list[float] = f1.tolist()
        return scores

    def close(self) -> None:
        self._scorer = None
