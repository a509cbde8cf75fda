"""The configuration of `raylign data score-pairs`.

Given the config classes of the parts; gives `ScorePairsConfig`, checked across fields, without a heavy import.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, Field, model_validator

from raylign.actors.cluster import ClusterConfig
from raylign.jobs.config.shared_checks import filled_folder
from raylign.rewards.registry import RewardConfig
from raylign.rollout.data.config import DataConfig

ALL_SPLITS = "all"


class ScorePairsConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """Soft labels for preference pairs."""

    name: str = Field("score-pairs", min_length=1)
    """Name of the job, for its folder."""
    folder: Path = Path("runs/{name}")
    """Folder of the result; `{name}` is filled in."""
    resume: bool = False
    """Go on with the job in the folder; pairs that are scored there are not scored again."""
    model: str | None = None
    """Model whose tokenizer and chat template write the prompts, as in training, and count tokens. Empty: rewards get
    prompts as the data has them, which is what those with a template of their own read."""
    data: DataConfig = DataConfig(prompt="{prompt}", reference=None, shuffle=False)
    """The pairs; `split: all` takes every split and writes each back as it was."""
    rewards: list[RewardConfig] = []
    """What scores; the total is the weighted sum (a cost model: weight -1)."""
    columns: Literal["auto", "sum", "each", "both"] = "auto"
    """sum: `chosen_score`, `rejected_score`, `bt_prob` of the total. each: columns of each reward with its name after
    them (`chosen_score_<name>`), the scores unweighted. auto: both where there are several rewards, else the sum."""
    suffix: str = ""
    """Put after the names of new columns, where the data has columns of those names."""
    num_repeats: int = Field(1, ge=1)
    """Times that each answer is scored, for scorers that are not the same each time."""
    every: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Every so many-th row is scored, the others are left out; below 1: each row 1/`every` times."""
    cluster: ClusterConfig = ClusterConfig()

    @property
    def repeats(self) -> int:
        """Times that each answer is scored."""
        return self.num_repeats * (round(1 / self.every) if self.every < 1 else 1)

    @property
    def step(self) -> int:
        """From one scored row to the next."""
        return max(1, round(self.every))

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.folder = filled_folder(self.folder, self.name, 0)
        if not self.rewards:
            raise ValueError("rewards is empty: at least one must score the answers")
        if self.model is None and any(reward.name == "length" for reward in self.rewards):
            raise ValueError("rewards: length counts tokens: give the model whose tokens they are (model)")
        return self
