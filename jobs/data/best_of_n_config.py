"""The configuration of `raylign data best-of-n`.

Given the config classes of the parts; gives `BestOfNConfig`, checked across fields, without a heavy import.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, Field, model_validator

from raylign.actors.cluster import ClusterConfig
from raylign.jobs.config.shared_checks import filled_folder, no_room_words, raise_together
from raylign.rewards.registry import RewardConfig
from raylign.rollout.best_worst import check_sizes
from raylign.rollout.data.config import DataConfig
from raylign.rollout.engine.config import EngineConfig
from raylign.rollout.sampling import SamplingConfig


class AncestralSamplingConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """How answers are drawn: always from the whole distribution, without top-p or top-k."""

    temperature: float = Field(1.0, gt=0.0)
    """Logits are divided by this before the softmax; at 1 best-of-n is of the policy itself."""
    max_tokens: int = Field(256, ge=1)
    """Longest answer, in tokens."""
    stop: list[str] = []
    """Strings that end an answer, besides the tokenizer's end token."""

    def of(self, num_answers: int) -> SamplingConfig:
        """So many answers for each prompt."""
        return SamplingConfig(**self.model_dump(), num_completions=num_answers)


class BestOfNConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """Best and worst of n answers to every prompt, as preference data; several n from one draw."""

    name: str = Field("best-of-n", min_length=1)
    """Name of the draw, for its folder."""
    folder: Path = Path("runs/{name}")
    """Folder for the results; `{name}` and `{seed}` are filled in."""
    resume: bool = False
    """Go on with the draw in the folder; prompts that are there are not drawn again."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Decides the order of prompts and the sampling."""
    model: str = "runs/tiny-model"
    """Model folder, checkpoint folder, run folder (its last checkpoint) or Hugging Face id: the policy to imitate the
    best of."""
    data: DataConfig = DataConfig()
    num_prompts: int | None = Field(None, ge=1)
    """Prompts to answer; empty, or more than there are: all."""
    best_of: list[int] = [8]
    """n, one or several, rising: the largest is drawn, and each smaller one takes the first so many."""
    sampling: AncestralSamplingConfig = AncestralSamplingConfig()
    rewards: list[RewardConfig] = []
    """What best and worst mean; the total is the weighted sum."""
    deterministic: bool = False
    """A seed for every answer: the same answers again, however often the draw was interrupted. A little slower."""
    original_format: bool = False
    """Write the published layout too: best-of-<n>/bon_maxlen_<tokens>.jsonl."""
    answer_deadline_s: float = Field(1800, gt=0)
    """How long to wait for the next prompt's answers and scores."""
    num_engines: int = Field(1, ge=1)
    """vLLM engines that share the prompts."""
    engine: EngineConfig = EngineConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _check(self) -> BestOfNConfig:
        self.folder = filled_folder(self.folder, self.name, self.seed)
        raise_together(self._problems())
        return self

    def _problems(self) -> Iterator[str]:
        try:
            check_sizes(self.best_of)
        except ValueError as error:
            yield str(error)
        if not self.rewards:
            yield "rewards is empty: at least one must say what best and worst mean"
        if self.sampling.max_tokens >= self.engine.max_model_len:
            yield no_room_words(self.sampling.max_tokens, "engine.max_model_len", self.engine.max_model_len)
