"""The configuration of `raylign synthetic-rl`: data from a task's definition, GRPO on it, evaluation before and after.

Given the config classes of the parts; gives `SyntheticRLConfig`, with the names of the original program, and from it
the configs of both halves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from raylign.actors.cluster import ClusterConfig
from raylign.actors.weights.config import WeightsConfig
from raylign.jobs.config.sections import (
    AsyncConfig,
    CheckpointConfig,
    RolloutConfig,
)
from raylign.jobs.config.shared_checks import filled_folder
from raylign.jobs.config.trackers import TrackersConfig
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.synthetic.base_answers import prompt_data
from raylign.jobs.synthetic.config import GivenConfig, SynthesizeConfig
from raylign.jobs.synthetic.outputs import SELECTED
from raylign.learners.algorithms.registry import AlgorithmConfig, default_algorithm
from raylign.learners.engines.config import LearnerConfig
from raylign.rewards.tasks.config import AnyTask, TaskConfig
from raylign.rewards.tasks.forms import AnswerForm
from raylign.rollout.engine.config import EngineConfig
from raylign.rollout.sampling import SamplingConfig


class SyntheticRLConfig(GivenConfig, serialize_by_alias=True):
    """Synthetic Data RL: a task's definition in, a model tuned on rows that a teacher wrote out."""

    experiment_name: str = Field("synthetic-rl", min_length=1)
    """Name of the experiment, for its folder and the trackers."""
    folder: Path = Path("runs/{name}")
    """Folder for everything; `{name}` and `{seed}` are filled in."""
    target_model_path: Path = Path("models/{name}")
    """Where the final model goes; `{name}` and `{seed}` are filled in."""
    resume: bool = False
    """Go on with the experiment in the folder, in whichever half it stopped."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Decides the data, the order of prompts and the sampling."""
    model: str = ""
    """Name of the model in tables; empty: the last part of its path."""
    base_model_path: str = "runs/tiny-model"
    """Model to start from: folder, checkpoint folder, run folder or Hugging Face id."""
    task_name: str = "gsm8k"
    """Built in: gsm8k, math, logiqa, mednli, medqa, cqa, cfa, gpqa, medmcqa, pubmedqa; or a Python file or folder of
    yours."""
    task: AnswerForm | None = None
    """A task by configuration alone, in place of task_name."""
    num_epochs: float = Field(5, gt=0)
    """Passes of GRPO over the selected rows."""
    sampling: SamplingConfig = SamplingConfig(temperature=1.2, max_tokens=2048, num_completions=16)
    rollout: RolloutConfig = RolloutConfig(prompts_per_step=4, engine=EngineConfig(max_model_len=4096))
    asynchrony: AsyncConfig = Field(AsyncConfig(), alias="async")  # `async` is a word of Python
    algorithm: AlgorithmConfig = default_algorithm(kl_coef=0.01, clip_high=0.2)
    learner: LearnerConfig = LearnerConfig(learning_rate=1e-6)
    weights: WeightsConfig = WeightsConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    trackers: TrackersConfig = TrackersConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.folder = filled_folder(self.folder, self.experiment_name, self.seed)
        self.target_model_path = filled_folder(self.target_model_path, self.experiment_name, self.seed)
        self.model = self.model or Path(self.base_model_path).name
        self.synthesis()
        self.training(num_test=1)
        return self

    @property
    def any_task(self) -> AnyTask:
        return self.task if self.task is not None else self.task_name

    def synthesis(self) -> SynthesizeConfig:
        """The first half: the data."""
        values: dict[str, Any] = {name: getattr(self, name) for name in (*GivenConfig.model_fields, "seed", "cluster")}
        folder = self.folder / "data"
        return SynthesizeConfig(
            name=self.experiment_name,
            folder=folder,
            resume=self.resume and folder.exists(),
            model=self.base_model_path,
            task=self.any_task,
            deterministic=self.rollout.deterministic,
            answer_deadline_s=self.rollout.answer_deadline_s,
            num_engines=self.rollout.num_engines,
            engine=self.rollout.engine,
            **values,
        )

    def training(self, num_test: int) -> TrainConfig:
        """The second half: GRPO from the base model, evaluated before the first and after the last step alone, so that
        the test set chooses nothing."""
        folder, data = self.folder / "train", self.folder / "data" / SELECTED
        evaluation: dict[str, Any] = {}
        if num_test:
            evaluation = {
                "data": prompt_data(data, self.template, "test"),
                "num_prompts": num_test,
                "rewards": [TaskConfig(task=self.any_task, values="validation")],
            }
        sections = ("sampling", "rollout", "learner", "algorithm", "weights", "checkpoints", "trackers", "cluster")
        return TrainConfig.model_validate(
            {name: getattr(self, name) for name in sections}
            | {
                "name": self.experiment_name,
                "folder": folder,
                "resume": self.resume and folder.exists(),
                "seed": self.seed,
                "num_epochs": self.num_epochs,
                "model": {"path": self.base_model_path},
                "data": prompt_data(data, self.template).model_copy(update={"shuffle": True}),
                "rewards": [TaskConfig(task=self.any_task, values="train")],
                "async": self.asynchrony,
                "evaluation": evaluation,
            }
        )
