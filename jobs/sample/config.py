"""The configuration of `raylign sample`.

Given the config classes of the parts; gives `SampleConfig`, checked across fields, without a heavy import.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, Field, model_validator

from raylign.actors.cluster import ClusterConfig
from raylign.jobs.config.shared_checks import filled_folder, no_room_words, raise_together
from raylign.rollout.data.config import DataConfig
from raylign.rollout.engine.config import EngineConfig
from raylign.rollout.sampling import AnswerSamplingConfig


class OneAnswerConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """How an answer is drawn; nothing is trained on it."""

    temperature: float = Field(1.0, ge=0.0)
    """Logits are divided by this before the softmax; 0 means greedy, which gives one answer."""
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    """Draw from the most probable tokens that hold this share together; 1: from all."""
    max_tokens: int = Field(256, ge=1)
    """Longest answer, in tokens."""
    stop: list[str] = []
    """Strings that end an answer, besides the tokenizer's end token."""

    def of(self, num_answers: int) -> AnswerSamplingConfig:
        """So many answers for each prompt."""
        return AnswerSamplingConfig(**self.model_dump(), num_completions=num_answers)


class SampleConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """Answers of a model to any prompts; no reward is needed."""

    name: str = Field("sample", min_length=1)
    """Name of the sample, for its folder."""
    folder: Path = Path("runs/{name}")
    """Folder for the results; `{name}` and `{seed}` are filled in."""
    resume: bool = False
    """Go on with the sample in the folder; prompts that are there are not answered again."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Decides the order of prompts and the sampling."""
    model: str = "runs/tiny-model"
    """Model folder, checkpoint folder, run folder (its last checkpoint) or Hugging Face id."""
    data: DataConfig = DataConfig(reference=None)
    """The prompts. References (`data.reference`) are kept where they are given, for rewards of `compare`."""
    num_prompts: int | None = Field(None, ge=1)
    """Prompts to answer; empty, or more than there are: all."""
    num_completions: int = Field(1, ge=1)
    """Answers to each prompt."""
    sampling: OneAnswerConfig = OneAnswerConfig()
    deterministic: bool = False
    """A seed for every answer: the same answers again, however often the job was interrupted. A little slower."""
    answer_deadline_s: float = Field(1800, gt=0)
    """How long to wait for the next prompt's answers."""
    num_engines: int = Field(1, ge=1)
    """vLLM engines that share the prompts."""
    engine: EngineConfig = EngineConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _check(self) -> SampleConfig:
        self.folder = filled_folder(self.folder, self.name, self.seed)
        raise_together(self._problems())
        return self

    def _problems(self) -> Iterator[str]:
        if self.sampling.temperature == 0 and self.num_completions > 1:
            yield (
                f"num_completions is {self.num_completions}: with sampling.temperature 0 all answers are the same; "
                "use 1, or a temperature above 0"
            )
        if self.sampling.max_tokens >= self.engine.max_model_len:
            yield no_room_words(self.sampling.max_tokens, "engine.max_model_len", self.engine.max_model_len)
