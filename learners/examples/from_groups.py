"""Groups become examples: the same for every algorithm that learns from rewards.

Given scored groups and the algorithm's own advantages; gives one `Example` for each completion, with the loss mask, the
engine's log-probs and the version of every token. Also the soft penalty on overlong answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from pydantic import BaseModel, Field, model_validator

from raylign.learners.examples.example import Example, constant
from raylign.rollout.sample import Completion, FloatArray, Group
from raylign.rollout.staleness import token_versions


class OverlongConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """Soft penalty on long answers, added to the total reward (DAPO, arXiv 2503.14476 section 3.4)."""

    max_tokens: int = Field(ge=1)
    """Length at which the whole penalty is paid; usually sampling.max_tokens."""
    buffer_tokens: int = Field(ge=1)
    """The penalty grows in a line over so many tokens before."""
    factor: float = Field(1.0, gt=0)
    """The whole penalty."""

    @model_validator(mode="after")
    def _buffer_fits(self) -> Self:
        if self.buffer_tokens > self.max_tokens:
            raise ValueError(f"buffer_tokens is {self.buffer_tokens}: more than max_tokens = {self.max_tokens}")
        return self


def overlong_penalty(num_tokens: int, config: OverlongConfig) -> float:
    """0 up to max − buffer, then down to −factor at max."""
    over = num_tokens - (config.max_tokens - config.buffer_tokens)
    return -config.factor * min(1.0, max(0.0, over / config.buffer_tokens))


def total_rewards(group: Group, overlong: OverlongConfig | None = None) -> FloatArray:
    """(G,) NaN where scoring failed."""
    if group.total_rewards is None or len(group.total_rewards) != len(group.completions):
        raise ValueError(
            f"prompt {group.prompt.prompt_id}: its {len(group.completions)} completions are not all scored"
        )
    if overlong is None:
        return group.total_rewards
    penalties = [overlong_penalty(len(completion.token_ids), overlong) for completion in group.completions]
    return (group.total_rewards + penalties).astype(np.float32)


def examples_of(
    groups: Sequence[Group], rewards: Sequence[FloatArray], advantages: Sequence[FloatArray], mask_truncated: bool
) -> list[Example]:
    """One example for each completion, its (G,) advantage on every token; failed ones (NaN reward, aborted) and, where
    asked, truncated ones have a zero mask.
    """
    examples = []
    for group, reward_G, advantage_G in zip(groups, rewards, advantages, strict=True):
        for completion, reward, advantage in zip(group.completions, reward_G, advantage_G, strict=True):
            num_tokens = len(completion.token_ids)
            if num_tokens == 0:
                continue
            failed = not np.isfinite(reward) or completion.stop_reason == "aborted"
            counts = not failed and not (mask_truncated and completion.stop_reason == "length")
            examples.append(
                Example(
                    prompt_ids=group.prompt.token_ids,
                    completion_ids=completion.token_ids,
                    loss_mask=constant(counts, num_tokens),
                    advantages=constant(advantage, num_tokens),
                    rollout_logps=completion.logps,
                    token_versions=_versions(completion),
                    weight=group.importance_weight,
                    group=group.prompt.ordinal,
                )
            )
    return examples


def _versions(completion: Completion) -> np.ndarray | None:
    return token_versions(completion.version_spans) if completion.version_spans else None
