"""The one definition of the distribution that completions are drawn from.

Given a config; the engine turns it into its request parameters, the learner divides its logits by the
same temperature. There is no top-p, top-k or min-p in training: an engine renormalises log-probs over the kept
tokens while the learner uses the whole vocabulary, so their ratio would be wrong (docs/decisions.md). Answers whose
log-probs nobody needs may be cut so: `AnswerSamplingConfig`, which training refuses.
"""

from __future__ import annotations

from pydantic import BaseModel, Field


class SamplingConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """How completions are sampled."""

    temperature: float = Field(1.0, ge=0.0)
    """Logits are divided by this before the softmax; 0 means greedy (evaluation only)."""
    max_tokens: int = Field(64, ge=1)
    """Longest completion, in tokens."""
    num_completions: int = Field(8, ge=1)
    """Completions for each prompt: the group size G."""
    stop: list[str] = []
    """Strings that end a completion, besides the tokenizer's end token."""


class AnswerSamplingConfig(SamplingConfig):
    """How answers are drawn that nothing is trained on by their log-probs: data, scores, baselines."""

    top_p: float = Field(1.0, gt=0.0, le=1.0)
    """Draw from the most probable tokens that hold this share together; 1: from all."""
    num_completions: int = Field(1, ge=1)
    """Answers to each prompt."""


def why_untrainable(sampling: SamplingConfig) -> str | None:
    """None unless the log-probs of what is sampled are not those of a learner."""
    if not isinstance(sampling, AnswerSamplingConfig):
        return None
    return (
        "sampling is an AnswerSamplingConfig: answers cut by top_p carry log-probs of another distribution than the "
        "learner's, so nothing is trained on them; give a SamplingConfig"
    )


def check_trainable(sampling: SamplingConfig) -> None:
    """Raise where it is not."""
    if why := why_untrainable(sampling):
        raise ValueError(why)
