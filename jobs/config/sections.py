"""The sections of a training run that belong to no single part.

Given nothing heavy; gives `Section`, the base of all of them, and the sections that `jobs/config/train.py` composes.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from raylign.rewards.registry import RewardConfig
from raylign.rollout.autoscale import AutoscaleConfig
from raylign.rollout.data.config import DataConfig
from raylign.rollout.engine.config import EngineConfig


class Section(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """Base of all sections: unknown keys fail, and every field has a sentence."""


class ModelConfig(Section):
    """Which model is trained."""

    path: str = "runs/tiny-model"
    """Folder or Hugging Face id of the model to start from."""


class RolloutConfig(Section):
    """How many engines generate, and how much for one step."""

    num_engines: int = Field(1, ge=1)
    """vLLM engines, each an actor of its own."""
    prompts_per_step: int = Field(32, ge=1)
    """Prompts of one step; for algorithms that learn from rows, rows of one step (bdr: of each of its two sets)."""
    deterministic: bool = False
    """A seed for every completion and a fixed schedule: two runs with one seed give the same numbers."""
    answer_deadline_s: float = Field(1800, gt=0)
    """How long one prompt may take from its start to its last completion and reward."""
    max_reward_failures: float = Field(0.5, ge=0, le=1)
    """Share of the scores of the last 20 groups that may fail; a run with more, or with a step in which every score
    failed, stops with the last failure's words. 1: it never stops for that."""
    engine: EngineConfig = EngineConfig()
    autoscale: AutoscaleConfig | None = None
    """Engines join and leave by themselves, from who waited for whom; empty: only by `raylign scale`."""


class AsyncConfig(Section):
    """How far rollouts may run ahead of the learner."""

    max_staleness: int = Field(2, ge=0)
    """η: a token may be trained at most so many weight versions after the one it was sampled from; 0: rollouts and
    learner take turns, strictly on-policy."""
    stale: Literal["mask", "drop"] = "mask"
    """What happens to a token beyond the bound: mask leaves it out of the loss and keeps the rest of its completion;
    drop drops its whole group and generates the prompt again. Both are counted."""


class EvaluationConfig(Section):
    """Measuring the policy on held-out rows during a training run."""

    data: DataConfig | None = None
    """Prompts that the run never trains on, to be answered; empty: none."""
    pairs: DataConfig | None = None
    """Preference pairs that the run never trains on (dpo, ipo, bonbon, sail, reward_model); empty: none."""
    more_pairs: list[DataConfig] = []
    """Further sources of such pairs. Each source is then measured apart too, as `evaluation/pairs/<source>/…`; the
    numbers without a source are those of `pairs`."""
    trusted: DataConfig | None = None
    """Trusted rows that the run never trains on (bdr, bdr_online); empty: none."""
    num_prompts: int = Field(200, ge=1)
    """Prompts, pairs and trusted rows to evaluate on, so many of each; all of them where there are fewer."""
    num_completions: int = Field(1, ge=1)
    """Completions for each prompt."""
    temperature: float = Field(0.0, ge=0.0)
    """Sampling temperature; 0 is greedy."""
    every_steps: int = Field(0, ge=0)
    """Evaluate every so many steps; 0: only before the first and after the last."""
    rewards: list[RewardConfig] = Field([])
    """What is measured; empty: the rewards of training."""
    correct_from: float = 1.0
    """A completion counts as correct when its total reward is at least this."""


class CheckpointConfig(Section):
    """When the policy is saved."""

    every_steps: int = Field(50, ge=0)
    """Save every so many steps; 0: only after the last."""
    keep_last: int = Field(2, ge=1)
    """Older checkpoints are removed."""
    copy_to: str | None = None
    """Where the run folder is copied to after every checkpoint and at the end, such as s3://bucket/folder, gs://…,
    file:///…; `--resume` brings the run back from there where its folder is gone. Keys come from the environment."""
    copy_deadline_s: float = Field(3600.0, gt=0.0)
    """How long the end of a run waits for its copy."""
