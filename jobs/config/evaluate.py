"""The configuration of an evaluation.

Given the config classes that stand beside the parts; gives `EvaluateConfig`, checked across fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field, model_validator

from raylign.actors.cluster import ClusterConfig
from raylign.jobs.config.sections import (
    Section,
)
from raylign.jobs.config.shared_checks import all_the_same, filled_folder, no_room_words, raise_together
from raylign.rewards.registry import RewardConfig
from raylign.rollout.data.config import DataConfig
from raylign.rollout.engine.config import EngineConfig
from raylign.rollout.sampling import SamplingConfig


class GreedySamplingConfig(SamplingConfig):
    """How completions are sampled in an evaluation: one greedy answer unless asked for more."""

    temperature: float = Field(0.0, ge=0.0)
    """Logits are divided by this before the softmax; 0 means greedy."""
    num_completions: int = Field(1, ge=1)
    """Completions for each prompt; as many as the largest k of pass@k, with a temperature above 0."""


class EvaluateConfig(Section):
    """One evaluation of one model on one data source."""

    name: str = Field("evaluation", min_length=1)
    """Name of the evaluation, for its folder."""
    folder: Path = Path("runs/{name}")
    """Folder for the results; `{name}` and `{seed}` are filled in."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Decides which rows are taken and the sampling."""
    model: str = "runs/tiny-model"
    """Model folder, checkpoint folder, run folder (its last checkpoint) or Hugging Face id."""
    data: DataConfig = DataConfig()
    num_prompts: int | None = Field(None, ge=1)
    """Rows to evaluate on; empty: all."""
    sampling: GreedySamplingConfig = GreedySamplingConfig()
    rewards: list[RewardConfig] = Field([])
    """What is measured; the total is the weighted sum."""
    correct_from: float = 1.0
    """A completion counts as correct when its total reward is at least this."""
    pass_at: list[int] = Field([1])
    """The k of pass@k; none may exceed `sampling.num_completions`."""
    num_engines: int = Field(1, ge=1)
    """vLLM engines that share the rows."""
    engine: EngineConfig = EngineConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _check(self) -> EvaluateConfig:
        self.folder = filled_folder(self.folder, self.name, self.seed)
        raise_together(_evaluate_problems(self))
        return self


def _evaluate_problems(config: EvaluateConfig) -> Iterator[str]:
    sampling = config.sampling
    if not config.rewards:
        yield "rewards is empty: at least one must say what is measured"
    if sampling.max_tokens >= config.engine.max_model_len:
        yield no_room_words(sampling.max_tokens, "engine.max_model_len", config.engine.max_model_len)
    if sampling.temperature == 0 and sampling.num_completions > 1:
        yield all_the_same("sampling", sampling.num_completions)
    for k in config.pass_at:
        if not 1 <= k <= sampling.num_completions:
            yield f"pass_at holds {k}: allowed are 1 to sampling.num_completions = {sampling.num_completions}"
