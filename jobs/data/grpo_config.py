"""The configuration of `raylign data grpo`.

Given the config classes of the parts; gives `GrpoDataConfig`, checked across fields, without a heavy import.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, model_validator

from raylign.actors.cluster import ClusterConfig
from raylign.jobs.config.shared_checks import no_room_words, raise_together
from raylign.jobs.data.hardness import SelectionMode
from raylign.rewards.registry import RewardConfig
from raylign.rollout.data.config import DataConfig
from raylign.rollout.engine.config import EngineConfig
from raylign.rollout.sampling import AnswerSamplingConfig

Metric = Literal["bleu", "rouge", "bertscore", "bleu_rouge_f1", "rm"]
PUBLISHED_POOL = "yapeichang/BLEUBERI-Tulu3-50k"
PUBLISHED_REWARD_MODEL = "Skywork/Skywork-Reward-Llama-3.1-8B-v0.2"
GOLD = "gold"
NEEDS_A_GROUP = ("bleu_rm",)
"""Rewards that compare the answers to one prompt: there is one."""


class PoolConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """The rows to choose from."""

    source: str = PUBLISHED_POOL
    """A file, a folder or a glob of files, a folder saved by `datasets`, or a Hugging Face id."""
    subset: str | None = None
    """Configuration name of a Hugging Face data set."""
    split: str = "train"
    """Split of a Hugging Face data set or a saved folder."""
    rows: str = "0%:100%"
    """Which rows, in a fixed shuffled order: `0%:80%`, `80%:100%`, `0:500`; they keep the order of the source."""
    split_seed: int = Field(0, ge=0)
    """Seed of the fixed shuffle behind `rows`."""
    prompt: str | None = None
    """The prompt, a template over the columns; empty: column `prompt`, and the first user message where a row has
    none."""
    messages: str = "messages"
    """Column with the chat whose first user message is the prompt."""
    reference: str | None = None
    """The references, a template over the columns, in place of the columns that `ref_models` names; a column that holds
    a list gives several."""
    template: str = "chat"
    """How the model is asked: `chat` uses the tokenizer's chat template; anything else is a plain template with
    `{prompt}`."""

    def as_data(self) -> DataConfig:
        """The same for what reads and renders rows; checks the templates too."""
        return DataConfig(
            source=self.source,
            subset=self.subset,
            split=self.split,
            rows=self.rows,
            split_seed=self.split_seed,
            prompt=self.prompt or "{prompt}",
            reference=self.reference,
            template=self.template,
            shuffle=False,
        )

    @model_validator(mode="after")
    def _check(self) -> PoolConfig:
        self.as_data()
        return self


class GrpoDataConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """Training rows chosen by how a model's answers score against references (BLEUBERI)."""

    hf_dataset_path: str | None = None
    """Another name for `data.source`."""
    data: PoolConfig = PoolConfig()
    ref_models: list[str] = [GOLD]
    """Whose answers are references: `gold` or the name after `ref_output_` of a column; gold comes first. A row that
    lacks one of them is left out."""
    selection_mode: SelectionMode = "hard"
    """random, or by score: hard (the lowest), easy (the highest), medium (around the middle)."""
    num_examples: int | None = Field(None, ge=1)
    """Rows to keep; empty, or more than there are: all. Random needs it."""
    metric: Metric | None = None
    """What scores the model's answers; rm: the published reward model. Random needs none."""
    rewards: list[RewardConfig] = []
    """In place of `metric`: any rewards, their weighted sum."""
    model: str | None = None
    """Model folder, checkpoint folder, run folder (its last checkpoint) or Hugging Face id whose answers are scored."""
    answers_csv: Path | None = None
    """Answers from a table with the columns id, prompt, response instead of drawing them."""
    inference_max_new_tokens: int = Field(512, ge=1)
    """Longest answer, in tokens."""
    temperature: float = Field(0.7, ge=0.0)
    """Of the answers; 0: greedy."""
    top_p: float = Field(0.9, gt=0.0, le=1.0)
    """Answers are drawn from the most probable tokens that hold this share together."""
    seed: int = Field(42, ge=0, lt=2**31)
    """Of the random choice and of the answers."""
    output_dir: Path = Path("data")
    """Root of the results: data_grpo/, inference_outputs/, scored_outputs/."""
    output_dataset_name: str | None = Field(None, pattern=r"^[^/.][^/]*$")
    """Folder of the result in data_grpo/; empty: made of data, metric, model, references, mode and number."""
    parquet: bool = False
    """Write train.parquet beside the saved data set."""
    deterministic: bool = False
    """A seed for every answer: the same answers again, however often the draw was interrupted. A little slower."""
    num_processes: int | None = Field(None, ge=1)
    """Processes that score where words are compared; empty: one for each core."""
    answer_deadline_s: float = Field(1800, gt=0)
    """How long to wait for the next prompt's answer."""
    num_engines: int = Field(1, ge=1)
    """vLLM engines that share the prompts."""
    engine: EngineConfig = EngineConfig(max_model_len=2048)
    cluster: ClusterConfig = ClusterConfig()

    @property
    def sampling(self) -> AnswerSamplingConfig:
        """One answer for each prompt."""
        return AnswerSamplingConfig(
            temperature=self.temperature, top_p=self.top_p, max_tokens=self.inference_max_new_tokens, num_completions=1
        )

    @property
    def references(self) -> list[str]:
        """`ref_models` in the order of the references: gold, then as given."""
        return sorted(dict.fromkeys(self.ref_models), key=lambda name: name != GOLD)

    @model_validator(mode="after")
    def _check(self) -> GrpoDataConfig:
        if self.hf_dataset_path is not None:
            if self.data.source not in (PUBLISHED_POOL, self.hf_dataset_path):
                raise ValueError(
                    f"hf_dataset_path is {self.hf_dataset_path} and data.source is {self.data.source}: both name the "
                    "pool; give one of them"
                )
            self.data = self.data.model_copy(update={"source": self.hf_dataset_path})
        raise_together(self._problems())
        return self

    def _problems(self) -> Iterator[str]:
        if not self.ref_models and self.data.reference is None:
            yield "ref_models is empty: name at least one reference, such as gold"
        if self.selection_mode == "random":
            if self.num_examples is None:
                yield "num_examples is missing: selection_mode random needs it"
        else:
            if self.metric is None and not self.rewards:
                yield (
                    f"metric is missing: selection_mode {self.selection_mode} needs bleu, rouge, bertscore, "
                    "bleu_rouge_f1 or rm (or rewards)"
                )
            if self.model is None and self.answers_csv is None:
                yield f"model (or answers_csv) is missing: selection_mode {self.selection_mode} scores answers"
        if self.metric is not None and self.rewards:
            yield "metric and rewards both say what scores the answers: give one of them"
        for reward in self.rewards:
            if reward.name in NEEDS_A_GROUP:
                yield f"rewards: {reward.name} compares several answers to one prompt, and here is one: use another"
        if self.inference_max_new_tokens >= self.engine.max_model_len:
            yield no_room_words(
                self.inference_max_new_tokens, "engine.max_model_len", self.engine.max_model_len
            ).replace("sampling.max_tokens", "inference_max_new_tokens")
