"""The configuration of `raylign compare`.

Given the config classes of the parts; gives `CompareConfig`, checked across fields, without a heavy import.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, Field, model_validator

from raylign.actors.cluster import ClusterConfig
from raylign.jobs.config.shared_checks import filled_folder, no_room_words, raise_together
from raylign.rewards.judge.config import JudgeConfig
from raylign.rewards.registry import RewardConfig
from raylign.rollout.data.config import DataConfig
from raylign.rollout.engine.config import EngineConfig
from raylign.rollout.sampling import SamplingConfig


class SideConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """One side of a comparison: a model that answers `data`, or a file of answers."""

    name: str | None = None
    """What it is called in tables and charts; empty: its model or file."""
    model: str | None = None
    """Model folder, checkpoint folder, run folder (its last checkpoint) or Hugging Face id."""
    answers: Path | None = None
    """JSONL file: {"prompt", "response"} lines, {prompt: [answer]} lines, samples.jsonl, or draws.jsonl."""
    best_of: int = Field(1, ge=1)
    """Of a draws.jsonl: the best of the first so many answers, by the scores of the draw; 1: the first answer."""

    @property
    def label(self) -> str:
        """Its name."""
        best = f" (best of {self.best_of})" if self.best_of > 1 else ""
        return self.name or f"{self.model or self.answers}{best}"


class OneAnswerSamplingConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """How models answer in a comparison: once."""

    temperature: float = Field(0.0, ge=0.0)
    """Sampling temperature; 0 is greedy. KL from samples and the curves of theory need samples: 1."""
    max_tokens: int = Field(256, ge=1)
    """Longest answer, in tokens."""
    stop: list[str] = []
    """Strings that end an answer, besides the tokenizer's end token."""

    def of_one(self) -> SamplingConfig:
        """One answer for each prompt."""
        return SamplingConfig(**self.model_dump(), num_completions=1)


class CompareConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """Win rate of a new model against a reference, by rewards, by a judge, or both."""

    name: str = Field("comparison", min_length=1)
    """Name of the comparison, for its folder."""
    folder: Path = Path("runs/{name}")
    """Folder for the results; `{name}` and `{seed}` are filled in."""
    resume: bool = False
    """Go on with the comparison in the folder; answers that are there are not drawn again."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Decides which rows are taken and the sampling."""
    new: SideConfig = SideConfig()
    """Whose win rate it is."""
    reference: SideConfig = SideConfig()
    """What it is compared with, such as the model that training started from."""
    data: DataConfig = DataConfig()
    """Prompts for sides that are models."""
    num_prompts: int | None = Field(None, ge=1)
    """Prompts to answer; empty, or more than there are: all."""
    sampling: OneAnswerSamplingConfig = OneAnswerSamplingConfig()
    rewards: list[RewardConfig] = []
    """What decides; the total is the weighted sum. The reward that training used overstates the win rate."""
    judge: JudgeConfig | None = None
    """A language model that decides, beside the rewards."""
    kl: bool = False
    """Estimate KL(new‖reference) from the new model's answers; both must be models."""
    shown_with: list[Path] = []
    """Folders of earlier comparisons, for the charts of win rate against KL and length."""
    answer_deadline_s: float = Field(1800, gt=0)
    """How long to wait for the next answer, or for the log-probs of all of them."""
    num_engines: int = Field(1, ge=1)
    """vLLM engines that share the prompts."""
    engine: EngineConfig = EngineConfig()
    cluster: ClusterConfig = ClusterConfig()

    @property
    def sides(self) -> dict[str, SideConfig]:
        """By key."""
        return {"new": self.new, "reference": self.reference}

    @model_validator(mode="after")
    def _check(self) -> CompareConfig:
        self.folder = filled_folder(self.folder, self.name, self.seed)
        raise_together(self._problems())
        return self

    def _problems(self) -> Iterator[str]:
        for key, side in self.sides.items():
            if (side.model is None) == (side.answers is None):
                yield f"{key}: give {key}.model or {key}.answers, one of them"
            if side.best_of > 1 and side.answers is None:
                yield f"{key}.best_of is {side.best_of}: it chooses among the answers of a draws.jsonl ({key}.answers)"
        models = [side.model for side in self.sides.values() if side.model is not None]
        if not self.rewards and self.judge is None:
            yield "rewards is empty and there is no judge: something must decide which answer is better"
        if models and self.sampling.max_tokens >= self.engine.max_model_len:
            yield no_room_words(self.sampling.max_tokens, "engine.max_model_len", self.engine.max_model_len)
        if self.kl and len(models) < 2:
            yield "kl is true: it needs two models (new.model, reference.model); a file does not say what drew it"
        if self.kl and self.sampling.temperature == 0:
            yield "kl is true and sampling.temperature is 0: greedy answers are no sample; set it to 1"
